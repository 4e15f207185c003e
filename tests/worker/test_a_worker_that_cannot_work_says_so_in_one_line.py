import socket
from pathlib import Path
from typing import Any

import pytest

from stream.kafka.topics import create_missing
from stream.settings import Kafka, Metrics, Model, Settings, State, Topics
from stream.trial.embedded_broker import free_ports
from tests.brokers import FAST, Broker, fresh_settings
from tests.worker.conftest import MakeWorker, refusal

NOBODY = f"127.0.0.1:{free_ports(1)[0]}"


def without_broker(**sections: object) -> Settings:
    return fresh_settings(NOBODY, **{"kafka": Kafka(brokers=NOBODY, **FAST | {"start_deadline_s": 1.0})} | sections)


def test_files_and_bundle_are_checked_before_the_broker(bundle: Path, make_worker: MakeWorker, tmp_path: Path) -> None:
    state = State(dir=tmp_path / "state")
    (tmp_path / "file").write_text("no folder")
    refused: dict[str, dict[str, Any]] = {
        "set LURM_STATE__DIR": {},
        "cannot make the state's folder": {"state": State(dir=tmp_path / "file" / "state")},
        "set LURM_MODEL__BUNDLE": {"state": state},
        "set LURM_KAFKA__REQUEST_TIMEOUT_S": {
            "state": state,
            "kafka": Kafka(brokers=NOBODY, request_timeout_s=5.0, session_timeout_s=6.0),
        },
        "no bundle": {"state": state, "model": Model(bundle=tmp_path / "missing")},
    }
    for message, sections in refused.items():
        assert message in refusal(make_worker(without_broker(**sections)), 2)


def test_a_broker_that_does_not_answer_is_an_error(bundle: Path, make_worker: MakeWorker, tmp_path: Path) -> None:
    settings = without_broker(state=State(dir=tmp_path / "state"), model=Model(bundle=bundle))
    assert f"brokers={NOBODY}" in refusal(make_worker(settings), 1)


@pytest.fixture
def good(broker: Broker, bundle: Path, tmp_path: Path) -> Settings:
    return fresh_settings(
        broker.brokers, state=State(dir=tmp_path / "state"), model=Model(bundle=bundle), metrics=Metrics(port=0)
    )


def test_topics_are_checked_before_anything_is_read(good: Settings, make_worker: MakeWorker) -> None:
    assert f"the events topic does not exist: topic={good.topics.events}" in refusal(make_worker(good), 2)
    create_missing(good)
    three = good.model_copy(update={"topics": Topics(**good.topics.model_dump() | {"partitions": 3})})
    assert f"topic {good.topics.events}: found 2 partitions, wanted 3" in refusal(make_worker(three), 2)


def test_a_taken_port_of_the_metrics_is_named(good: Settings, make_worker: MakeWorker) -> None:
    create_missing(good)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = good.model_copy(update={"metrics": Metrics(port=port)})
        assert f"address=127.0.0.1:{port}" in refusal(make_worker(settings), 2)
