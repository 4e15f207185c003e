import signal

from aiokafka.partitioner import murmur2

from stream.kafka.topics import end_offsets
from stream.settings import Kafka, Settings
from tests.brokers import FAST
from tests.plain import PlainEvent
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import (
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    delete_records,
    stopped_after,
    wait_applied,
    wait_until,
)


def test_unread_events_that_retention_deleted_stop_the_worker_unless_loss_is_accepted(
    settings: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(settings, seed=14)
    worker = make_worker(settings)
    stopped_after(worker, traffic)
    read = list(traffic.sent)
    n_lost = lose_some(traffic)
    assert "retention deleted unread events" in refusal(worker, 1)

    check_goes_on(make_worker(accepting(settings)), read, n_lost)


def test_they_stop_a_worker_that_runs_and_is_behind(settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(settings, seed=18)
    worker = make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    worker.signal(signal.SIGSTOP)
    lose_some(traffic)
    worker.signal(signal.SIGCONT)
    assert worker.wait() == 1, worker.output()
    assert "retention deleted unread events" in worker.output()
    changelog = Changelog(settings)
    assert changelog.ledger.received == sum(record.next_offset for record in changelog.partitions.values())

    # A fetch that was on its way when the worker was stopped may have brought some of them.
    read = read_before(traffic, changelog)
    check_goes_on(make_worker(accepting(settings)), read, len(traffic.sent) - len(read))


def test_a_worker_begins_with_what_retention_left_and_misses_what_it_deletes_from_then_on(
    settings: Settings, make_worker: MakeWorker
) -> None:
    """Also where a partition had nothing to read but what it wrote down when it began."""
    lose_some(Traffic(settings, seed=19))
    worker = make_worker(settings).ready()
    begun = end_offsets(settings, settings.topics.events)

    def is_noted() -> bool:
        return {number: each.next_offset for number, each in Changelog(settings).partitions.items()} == begun

    wait_until(is_noted, explain=worker.output)
    assert all(begun.values())
    assert worker.terminate() == 0
    n_lost = lose_some(Traffic(settings, seed=20))
    assert "retention deleted unread events" in refusal(worker, 1)

    check_goes_on(make_worker(accepting(settings)), [], n_lost)


def check_goes_on(worker: WorkerProcess, read: list[PlainEvent], n_lost: int) -> None:
    """It counts these as lost, and what comes then on top of what was read."""
    worker.ready()
    wait_until(lambda: worker.metric("lurm_lost_events_total") == n_lost)
    late = Traffic(worker.settings, seed=15)
    late.send(100)
    wait_applied(worker.settings, worker)
    check_exact(worker.settings, read + late.sent)
    check_published(worker.settings)


def read_before(traffic: Traffic, changelog: Changelog) -> list[PlainEvent]:
    """The events before the offsets that the partitions have reached."""
    sent: dict[int, list[PlainEvent]] = {}
    for event in traffic.sent:
        number = (murmur2(event.user) & 0x7FFFFFFF) % traffic.settings.topics.partitions
        sent.setdefault(number, []).append(event)
    return [event for number, events in sent.items() for event in events[: changelog.partitions[number].next_offset]]


def lose_some(traffic: Traffic) -> int:
    """Send events that are deleted before anybody reads them; how many."""
    settings = traffic.settings
    before = sum(end_offsets(settings, settings.topics.events).values())
    traffic.send(300)
    delete_records(settings, settings.topics.events)
    return sum(end_offsets(settings, settings.topics.events).values()) - before


def accepting(settings: Settings) -> Settings:
    kafka = Kafka(brokers=settings.kafka.brokers, **FAST, data_loss="accept")
    return settings.model_copy(update={"kafka": kafka})
