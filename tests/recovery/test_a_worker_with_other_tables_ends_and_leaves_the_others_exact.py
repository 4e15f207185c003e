"""In one group Faust would part its changelogs from the events: a worker would count without its users' rows."""

import sys
from pathlib import Path

import pytest

from stream.settings import Kafka, Settings, State, Worker
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import (
    DEADLINE_S,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    second,
    stopped_after,
    wait_applied,
)

OTHER = Path(__file__).with_name("other_tables_worker.py")
RENAMED, ADDED, SHARED = ("rows",), ("bags", "more:memory"), ("bags", "more:lurmbags")
REFUSED = "the group's other workers read other topics"


@pytest.mark.kafka
@pytest.mark.parametrize(("tables", "standbys"), [(RENAMED, 0), (ADDED, 1)])
def test_a_worker_with_other_tables_ends_and_leaves_the_others_exact(
    kafka_broker: Broker,
    settings_on: MakeSettingsOn,
    make_worker: MakeWorker,
    tmp_path: Path,
    tables: tuple[str, ...],
    standbys: int,
) -> None:
    state = State(dir=tmp_path / "state", standbys=standbys)
    settings = settings_on(kafka_broker.brokers, worker=Worker(), state=state)
    traffic, worker = Traffic(settings, seed=57), make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    with traffic.flowing(200):
        with other_version(second(settings), tables) as other:
            assert REFUSED in ending(other)
        handed_over({worker: 2})
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


@pytest.mark.kafka
@pytest.mark.parametrize("tables", [RENAMED, ADDED])
def test_one_that_comes_back_with_other_tables_ends_while_the_group_remembers_it(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tables: tuple[str, ...]
) -> None:
    """The broker gives a static member what it held, whatever it subscribes now."""
    kafka = Kafka(brokers=kafka_broker.brokers, **FAST | {"session_timeout_s": 30.0, "request_timeout_s": 35.0})
    settings = settings_on(kafka_broker.brokers, kafka=kafka)
    traffic, worker = Traffic(settings, seed=58), make_worker(settings)
    stopped_after(worker, traffic)
    with other_version(settings, tables) as other:
        assert REFUSED in ending(other)
    traffic.send(500)
    wait_applied(settings, worker.ready())
    check_exact(settings, traffic.sent)
    check_published(settings)


@pytest.mark.kafka
def test_one_with_more_tables_counts_on_once_the_others_are_stopped(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, worker = Traffic(settings, seed=60), make_worker(settings)
    stopped_after(worker, traffic)
    with other_version(settings, SHARED) as other:
        assert "the store has one table" in ending(other, 2)
    traffic.send(500)
    with other_version(settings, ADDED) as other:
        wait_applied(settings, other.ready())
        check_exact(settings, traffic.sent)
        check_published(settings)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_with_another_events_topic_ends(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    events = settings_on(kafka_broker.brokers).topics.events
    topics = settings.topics.model_copy(update={"events": events})
    worker, other = make_worker(settings).ready(), make_worker(second(settings).model_copy(update={"topics": topics}))
    assert REFUSED in ending(other)
    handed_over({worker: 2})


def other_version(settings: Settings, tables: tuple[str, ...]) -> WorkerProcess:
    assert settings.state.dir is not None
    return WorkerProcess(settings, settings.state.dir.with_name("other.log"), [sys.executable, OTHER, *tables])


def ending(worker: WorkerProcess, exit_code: int = 1) -> str:
    """The line that says why it ended."""
    assert worker.start().wait(2 * DEADLINE_S) == exit_code, worker.output()
    return next(line for line in worker.output().splitlines() if "the worker ends: " in line)
