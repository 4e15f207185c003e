"""A leader without the newest events is elected, as after an unclean election, or after a power cut took them.

Here the log of a single node is cut while it is down, and its return bumps the leader's epoch as an election does. New
events then stand at the offsets of those that were applied: a worker that read on from there would never see them.
"""

from pathlib import Path

import pytest

from stream.kafka.topics import end_offsets
from stream.records.partitioners import partitions_of
from stream.settings import Kafka, Settings, Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import FAST, kafka_home
from tests.conftest import NO_KAFKA
from tests.cut_logs import lose_end, start
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import (
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    stopped_after,
    wait_applied,
    wait_until,
)

N_LOST = 100
LOST = "the source topic has lost applied events, and others stand at their offsets"


@pytest.fixture
def kafka(tmp_path: Path) -> ApacheKafka:
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    return ApacheKafka(home, tmp_path / "broker")


@pytest.mark.slow
@pytest.mark.kafka
def test_while_the_worker_is_down(kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker) -> None:
    with start(kafka):
        settings = settings_on(kafka.brokers, partitions=1, worker=Worker())
        traffic, worker = Traffic(settings, seed=61), make_worker(settings)
        apply_some(worker.ready(), traffic)
        assert worker.terminate() == 0, worker.output()
        lose_the_end(kafka, settings)
        after = Traffic(settings, seed=62, prefix="later")
        after.send(3 * N_LOST)
        assert LOST in refusal(worker, 1)
        check_goes_on_behind(make_worker(accepting(settings)), after, skipped=N_LOST)


@pytest.mark.slow
@pytest.mark.kafka
def test_while_the_worker_runs(kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker) -> None:
    with start(kafka):
        settings = settings_on(kafka.brokers, partitions=1, worker=Worker())
        traffic = Traffic(settings, seed=63)
        worker = make_worker(settings).ready()
        apply_some(worker, traffic)
        lose_the_end(kafka, settings)
        after = Traffic(settings, seed=64, prefix="later")
        after.send(3 * N_LOST)
        # What its transactions met when the broker went may have ended it before, and it may look before more has come.
        worker.wait()
        assert Changelog(settings).ledger.received == len(traffic.sent)
        assert LOST in refusal(worker, 1)
        worker = make_worker(with_epoch(settings, 1)).ready()
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent + after.sent)
        check_published(settings)
        worker.kill()
        after.send(100)
        worker.ready()
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent + after.sent)


@pytest.mark.slow
@pytest.mark.kafka
def test_partitions_that_nothing_was_read_of_hold_no_higher_epoch_up(
    kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The record of a quiet partition names no leader, and whoever follows the worker's own advice must get on."""
    with start(kafka):
        settings = settings_on(kafka.brokers, worker=Worker())
        traffic, worker = OfPartition0(settings, seed=66), make_worker(settings)
        apply_some(worker.ready(), traffic)
        wait_until(lambda: set(Changelog(settings).partitions) == {0, 1})
        assert worker.terminate() == 0, worker.output()
        lose_the_end(kafka, settings)
        after = OfPartition0(settings, seed=67, prefix="later")
        after.send(3 * N_LOST)
        assert LOST in refusal(worker, 1)
        worker = make_worker(with_epoch(settings, 1)).ready()
        others = Traffic(settings, seed=68, prefix="other")
        others.send(300)
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent + after.sent + others.sent)
        check_published(settings)


class OfPartition0(Traffic):
    """Only of users whose events lie there."""

    def _event(self) -> PlainEvent:
        while True:
            event = super()._event()
            if partitions_of([event.user], self.settings.topics.partitions, "murmur2")[0] == 0:
                return event


@pytest.mark.slow
@pytest.mark.kafka
def test_a_leader_that_lost_nothing_stops_nobody(
    kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    with start(kafka):
        settings = settings_on(kafka.brokers, partitions=1, worker=Worker())
        traffic, worker = Traffic(settings, seed=65), make_worker(settings)
        stopped_after(worker, traffic)
        first = Changelog(settings).partitions[0].leader_epoch
        kafka.kill()
        start(kafka)
        worker.ready()
        traffic.send(300)
        wait_applied(settings, worker)
        record = Changelog(settings).partitions[0]
        assert (record.ledger.received, record.leader_epoch > first) == (800, True)
        check_published(settings)


def apply_some(worker: WorkerProcess, traffic: Traffic) -> None:
    traffic.send(400)
    # In a batch of its own, where the log can be cut.
    traffic.send(N_LOST)
    wait_applied(worker.settings, worker)


def check_goes_on_behind(worker: WorkerProcess, after: Traffic, skipped: int) -> None:
    """What stands at offsets that were applied is said to be lost; the rest is counted."""
    worker.ready()
    wait_until(lambda: worker.metric("lurm_lost_events_total") == skipped)
    wait_applied(worker.settings, worker)
    counted = sum(sum(bag.values()) for key, bag in Changelog(worker.settings).bags().items() if is_days_of_later(key))
    assert counted == len(after.sent) - skipped


def is_days_of_later(key: tuple[bytes, str, str]) -> bool:
    return key[0].startswith(b"later") and key[1] == "day"


def lose_the_end(kafka: ApacheKafka, settings: Settings) -> None:
    kept = end_offsets(settings, settings.topics.events)[0] - N_LOST
    lose_end(kafka, settings.topics.events, kept)
    assert end_offsets(settings, settings.topics.events)[0] == kept


def with_epoch(settings: Settings, epoch: int) -> Settings:
    return settings.model_copy(update={"topics": settings.topics.model_copy(update={"epoch": epoch})})


def accepting(settings: Settings) -> Settings:
    kafka = Kafka(brokers=settings.kafka.brokers, **FAST, data_loss="accept")
    return settings.model_copy(update={"kafka": kafka})
