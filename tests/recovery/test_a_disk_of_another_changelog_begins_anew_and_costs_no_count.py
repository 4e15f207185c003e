"""The changelog is deleted and rebuilt; a disk that knows only the old one comes back, however long the new one is."""

from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from state.periods import MS_PER_DAY
from stream.kafka.connection import client_arguments
from stream.settings import Settings, Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import Broker
from tests.cut_logs import lose_end
from tests.plain import PlainEvent
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import (
    FIRST_DAY,
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    recreate,
    second,
    stopped_after,
    wait_applied,
    wait_until,
)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_disk_of_another_changelog_begins_anew_and_costs_no_count(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker deletes no group, and gives topics no id."""
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, others = Traffic(settings, seed=71), Traffic(settings, seed=72, prefix="other")
    old = make_worker(settings).ready()
    for _ in range(8):
        traffic.send_these(of_few_rows())
        wait_applied(settings, old)
    assert old.terminate() == 0, old.output()
    # In the new changelog their rows stand where the old one was long before: this disk would never read them.
    traffic.send_these(of_few_rows())
    rebuilt_by(make_worker(second(settings)), others)

    old.ready()
    traffic.send_these(of_few_rows())
    wait_applied(settings, old)
    check_exact(settings, traffic.sent + others.sent)
    assert "the state belongs to another changelog, and begins anew" in old.output()
    check_published(settings)
    check_disk(old)


@pytest.mark.slow
@pytest.mark.kafka
def test_so_does_a_disk_that_applied_what_its_changelog_has_lost_since(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The topic is the same one: only what stands at the disk's place tells."""
    settings = settings_on(own_kafka.brokers, partitions=1, worker=Worker())
    traffic, others = Traffic(settings, seed=74), Traffic(settings, seed=75, prefix="other")
    old = make_worker(settings).ready()
    for _ in range(8):
        traffic.send_these(of_few_rows())
        wait_applied(settings, old)
    assert old.terminate() == 0, old.output()
    lose_end(own_kafka, settings.changelog_topic, 60, behind_marker=True)
    traffic.send_these(of_few_rows())
    rebuilt_by(make_worker(second(settings)), others, recreated=True)

    old.ready()
    traffic.send_these(of_few_rows())
    wait_applied(settings, old)
    check_exact(settings, traffic.sent + others.sent)
    assert "the state holds what its changelog does not, and begins anew" in old.output()


@pytest.mark.kafka
def test_a_disk_that_is_all_there_is_of_a_state_is_not_removed(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Nobody has rebuilt the changelog: whoever deleted it by mistake still has the rows."""
    settings = settings_on(kafka_broker.brokers)
    traffic, worker = Traffic(settings, seed=72), make_worker(settings)
    stopped_after(worker, traffic)
    before = databases(settings)
    recreate(settings, settings.changelog_topic)
    assert "the changelog is not the one that was applied; was it recreated?" in refusal(worker, 1)
    assert databases(settings) == before


@pytest.mark.kafka
def test_a_changelog_that_is_recreated_under_a_running_worker_ends_it_before_it_writes_into_it(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic = Traffic(settings, seed=73)
    worker = make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    recreate(settings, settings.changelog_topic)
    traffic.send(300)
    assert worker.wait() != 0, worker.output()
    assert "was it recreated?" in refusal(worker, 1)
    rebuilt_by(make_worker(second(settings)), traffic, recreated=True)
    check_exact(settings, traffic.sent)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_whose_changelog_loses_its_end_before_it_writes_writes_no_row_behind_the_gap(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """A partition may be quiet for hours after a start. Its rows are whole here, and nowhere else."""
    settings = settings_on(own_kafka.brokers, partitions=1, worker=Worker())
    traffic, worker = Traffic(settings, seed=76), make_worker(settings).ready()
    for _ in range(8):
        traffic.send_these(of_few_rows())
        wait_applied(settings, worker)
    wait_until(lambda: is_noted(settings))
    assert worker.terminate() == 0, worker.output()
    worker.ready()
    lose_end(own_kafka, settings.changelog_topic, 60, behind_marker=True)
    traffic.send_these(of_few_rows())
    assert worker.wait() != 0, worker.output()
    assert "was it recreated" in worker.output()
    assert "the changelog is behind the group's offset" in refusal(make_worker(second(settings)), 1)


def is_noted(settings: Settings) -> bool:
    """Whether a start has nothing to write."""
    record = Changelog(settings).partitions[0]
    return record.published == record.next_offset


def rebuilt_by(worker: WorkerProcess, traffic: Traffic, *, recreated: bool = False) -> None:
    """Another worker builds the state again, as its refusal advises, and then goes on past the old changelog's end."""
    settings = worker.settings
    if not recreated:
        recreate(settings, settings.changelog_topic)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        wait_until(lambda: admin.delete_groups([settings.app.id]) == {settings.app.id: "OK"})
    worker.ready()
    for _ in range(5):
        traffic.send(300)
        wait_applied(settings, worker)
    assert worker.terminate() == 0, worker.output()


def of_few_rows() -> list[PlainEvent]:
    return [PlainEvent(b"user-%d" % number, number, FIRST_DAY * MS_PER_DAY) for number in range(20)] * 3


def databases(settings: Settings) -> list[str]:
    assert settings.state.dir is not None
    return sorted(str(path) for path in settings.state.dir.rglob("CURRENT"))
