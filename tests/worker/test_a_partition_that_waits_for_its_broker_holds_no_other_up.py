"""However many batches come meanwhile, and whether it waits with events or with embeddings; but not for ever."""

import signal
import sys
from pathlib import Path

import pytest

from state.rows import seq_of
from stream.fatal import EXIT_FATAL
from stream.kafka.topics import end_offsets
from stream.settings import Settings
from tests.workers import Changelog, Traffic, WorkerProcess, check_exact, check_published, wait_applied, wait_until

HALTING = Path(__file__).with_name("halting_worker.py")
N_BATCHES, N_EVENTS = 160, 20
# As the worker counts them: more, with key and value.
RECORD_BYTES = 200


def test_a_partition_that_waits_with_its_events_holds_no_other_up(settings: Settings, tmp_path: Path) -> None:
    """Of its own a few batches are fetched, and the rest when there is room."""
    traffic = Traffic(settings, seed=92)
    traffic.send(200)
    with WorkerProcess(settings, tmp_path / "worker.log", [sys.executable, HALTING, "apply"]) as worker:
        worker.ready()
        wait_applied(settings, worker)
        applied_before = Changelog(settings).partitions[0].next_offset
        worker.signal(signal.SIGRTMIN)
        for _ in range(N_BATCHES):
            traffic.send(N_EVENTS)

        def other_applied() -> bool:
            ends = end_offsets(settings, settings.topics.events)
            return Changelog(settings).partitions[1].next_offset >= ends[1]

        wait_until(other_applied, explain=worker.output)
        assert Changelog(settings).partitions[0].next_offset == applied_before
        wait_until(lambda: worker.metric("lurm_fetched_bytes") > 0, explain=worker.output)
        n_waiting = end_offsets(settings, settings.topics.events)[0] - applied_before
        assert worker.metric("lurm_fetched_bytes") < RECORD_BYTES * n_waiting / 2
        worker.signal(signal.SIGRTMIN)
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
        check_published(settings)


@pytest.mark.slow
def test_a_partition_that_waits_with_its_embeddings_holds_no_other_up(settings: Settings, tmp_path: Path) -> None:
    traffic = Traffic(settings, seed=93)
    with WorkerProcess(settings, tmp_path / "worker.log", [sys.executable, HALTING, "publish"]) as worker:
        worker.ready()
        worker.signal(signal.SIGRTMIN)
        for _ in range(3):
            traffic.send(200)
            wait_applied(settings, worker)
            wait_until(lambda: all_published(settings, 1), explain=worker.output)
        assert not all_published(settings, 0)
        worker.signal(signal.SIGRTMIN)
        wait_until(lambda: all_published(settings, 0), explain=worker.output)
        check_exact(settings, traffic.sent)
        check_published(settings)


def test_a_transaction_that_never_ends_ends_the_worker_though_others_go_on(settings: Settings, tmp_path: Path) -> None:
    stuck = settings.worker.model_copy(update={"stuck_s_max": 5.0})
    settings = settings.model_copy(update={"worker": stuck})
    traffic = Traffic(settings, seed=94)
    with WorkerProcess(settings, tmp_path / "worker.log", [sys.executable, HALTING, "publish"]) as worker:
        worker.ready()
        worker.signal(signal.SIGRTMIN)
        with traffic.flowing(100):
            assert worker.wait() == EXIT_FATAL
        producer = f"{settings.app.id}-embeddings-0"
        assert f"a transaction of partition 0 ({producer}) has not moved for" in worker.output()
    with WorkerProcess(settings, tmp_path / "worker.log") as worker:
        worker.ready()
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
        check_published(settings)


def all_published(settings: Settings, number: int) -> bool:
    """Whether the partition has written down that everything it applied is published."""
    record = Changelog(settings).partitions[number]
    return record.published == seq_of(record.epoch, record.next_offset)
