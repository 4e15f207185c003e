from pathlib import Path

import pytest

from stream.settings import Settings
from tests.brokers import Broker
from tests.erasures import another_application, check_exact_without, erased, life
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Changelog, Traffic, wait_applied, wait_until


@pytest.mark.kafka
def test_an_application_that_builds_its_state_follows_erasures_of_another(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = settings_on(kafka_broker.brokers, partitions=1)
    traffic, worker = Traffic(settings, seed=75), make_worker(settings)
    # Of each user the first events stand at the topic's beginning, the others at its end.
    traffic.send_these([*life("ann", 3), *life("bob", 3)])
    traffic.send(600)
    traffic.send_these([*life("ann", 7), *life("bob", 7)])
    worker.ready()
    wait_applied(settings, worker)
    other = another_application(settings, tmp_path)
    other = other.model_copy(update={"kafka": other.kafka.model_copy(update={"poll_events": 10})})
    beside = make_worker(other)
    # A quarter of a second for each ten events: it is on its way for a while.
    beside.start("batch.decoded:1+=0.25").ready()
    wait_until(lambda: is_begun(other), explain=beside.output)
    receipt = erased(settings, "ann")
    assert receipt.removed.rows == 7
    wait_applied(other, beside)
    newest = Changelog(other).newest_seq()
    assert (newest[b"ann"], newest[b"bob"]) == (2, 619), "what was read before the erasure, and no more"
    assert Changelog(other).ledger.skipped == 7
    own = erased(other, "ann")
    assert own.removed.rows == 3
    assert b"ann" not in Changelog(other).newest_seq()
    traffic.send_these(life("ann", 2))
    wait_applied(settings, worker)
    wait_applied(other, beside)
    check_exact_without(settings, [receipt])
    assert Changelog(other).newest_seq()[b"ann"] == Changelog(settings).newest_seq()[b"ann"], "a new life in both"


def is_begun(settings: Settings) -> bool:
    """Whether the first events of all have been counted."""
    changelog = Changelog(settings)
    return max((each.next_offset for each in changelog.partitions.values()), default=0) >= 10
