"""A transaction leaves a control record at the end: a recovery that waits for the last record would never end."""

import shutil

from state.periods import MS_PER_DAY
from stream.kafka.topics import end_offsets
from stream.settings import Settings
from tests.brokers import producer
from tests.plain import PlainEvent
from tests.worker.conftest import MakeWorker
from tests.workers import (
    FIRST_DAY,
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    wait_applied,
)


def test_a_changelog_that_is_empty_or_ends_in_control_records_is_recovered(
    settings: Settings, make_worker: MakeWorker
) -> None:
    """One user only, so that the other partition's changelog stays empty."""
    traffic, worker = Traffic(settings, seed=40), make_worker(settings)
    traffic.send_these([PlainEvent(b"user-1", i % 20, (FIRST_DAY + i) * MS_PER_DAY) for i in range(40)])
    worker.ready()
    wait_applied(settings, worker)
    worker.kill()
    on_an_empty_disk(worker)
    check_exact(settings, traffic.sent)
    worker.kill()

    (row,) = [*Changelog(settings).rows.items()][:1]
    for _ in range(3):
        abort(settings, *row)
    assert_ends_in_control_records(settings)
    on_an_empty_disk(worker)
    traffic.send(100)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def on_an_empty_disk(worker: WorkerProcess) -> None:
    assert worker.settings.state.dir is not None
    shutil.rmtree(worker.settings.state.dir)
    worker.ready()


def abort(settings: Settings, key: bytes, value: bytes) -> None:
    """Rows that were never committed, in every partition."""
    with producer(settings, f"{settings.app.id}-stranger") as client:
        client.begin_transaction()
        for number in range(settings.topics.partitions):
            client.send(settings.changelog_topic, value, key, partition=number)
        client.flush()
        client.abort_transaction()


def assert_ends_in_control_records(settings: Settings) -> None:
    last = {record.partition: record.offset for record in Changelog(settings).records}
    for number, end in end_offsets(settings, settings.changelog_topic).items():
        assert end > last.get(number, -1) + 1
