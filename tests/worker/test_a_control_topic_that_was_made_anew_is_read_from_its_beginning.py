"""What is asked in another control topic of the name is done, whatever offset the former one was read up to."""

import json

import pytest

from stream.records.partitioners import partitions_of
from stream.settings import Settings
from tests.brokers import Broker, producer
from tests.erasures import erased, life
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Changelog, Traffic, check_published, recreate, wait_applied, wait_until

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(True, id="beneath a worker that runs", marks=pytest.mark.slow),
        pytest.param(False, id="while none runs"),
    ],
)
def test_a_control_topic_that_was_made_anew_is_read_from_its_beginning(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, runs: bool
) -> None:
    settings = settings_on(kafka_broker.brokers)
    traffic, bob = Traffic(settings, seed=79), life("bob", 4)
    traffic.send(200)
    traffic.send_these([*life("ann", 3), *bob])
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    check_published(settings)
    erased(settings, "ann", "--skip-events")
    n_before = worker.metric("lurm_erasures_total")
    if not runs:
        assert worker.terminate() == 0, worker.output()
        n_before = 0
    recreate(settings, settings.control_topic)
    ask_and_fill(settings, "bob")
    if not runs:
        worker.ready()
    wait_until(lambda: worker.metric("lurm_erasures_total") == n_before + 1, explain=worker.output)
    assert b"bob" not in Changelog(settings).newest_seq()
    check_published(settings)

    traffic.send_these(bob[:2])
    wait_applied(settings, worker)
    assert worker.terminate() == 0, worker.output()
    worker.ready()
    wait_applied(settings, worker)
    assert b"bob" in Changelog(settings).newest_seq(), "what was done is not done again"
    assert worker.metric("lurm_erasures_total") == 0


def ask_and_fill(settings: Settings, user: str) -> None:
    """A marker, and more behind it than ever stood in the former topic."""
    (number,) = partitions_of([user.encode()], settings.topics.partitions, "murmur2").tolist()
    said = {"kind": "erase", "id": "1f", "user": user, "end_offset": 0, "embedded": True, "requested_at_ms": 0}
    with producer(settings) as client:
        for value in [json.dumps(said).encode(), *[b"{"] * 100]:
            client.send(settings.control_topic, value, b"anything", partition=number)
        client.flush()
