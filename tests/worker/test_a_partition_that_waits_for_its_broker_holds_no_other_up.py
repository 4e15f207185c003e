"""However many batches come meanwhile; of its own a few are fetched, and the rest when there is room."""

import signal
import sys
from pathlib import Path

from stream.settings import Settings
from stream.topics import end_offsets
from tests.workers import Changelog, Traffic, WorkerProcess, check_exact, check_published, wait_applied, wait_until

HALTING = Path(__file__).with_name("halting_worker.py")
N_BATCHES, N_EVENTS = 160, 20
# As the worker counts them: more, with key and value.
RECORD_BYTES = 200


def test_a_partition_that_waits_for_its_broker_holds_no_other_up(one_settings: Settings, tmp_path: Path) -> None:
    traffic = Traffic(one_settings, seed=92)
    traffic.send(200)
    with WorkerProcess(one_settings, tmp_path / "worker.log", [sys.executable, HALTING]) as worker:
        worker.ready()
        wait_applied(one_settings, worker)
        applied_before = Changelog(one_settings).partitions[0].next_offset
        worker.signal(signal.SIGRTMIN)
        for _ in range(N_BATCHES):
            traffic.send(N_EVENTS)

        def other_applied() -> bool:
            ends = end_offsets(one_settings, one_settings.topics.events)
            return Changelog(one_settings).partitions[1].next_offset >= ends[1]

        wait_until(other_applied, explain=worker.output)
        assert Changelog(one_settings).partitions[0].next_offset == applied_before
        wait_until(lambda: worker.metric("lurm_fetched_bytes") > 0, explain=worker.output)
        n_waiting = end_offsets(one_settings, one_settings.topics.events)[0] - applied_before
        assert worker.metric("lurm_fetched_bytes") < RECORD_BYTES * n_waiting / 2
        worker.signal(signal.SIGRTMIN)
        wait_applied(one_settings, worker)
        check_exact(one_settings, traffic.sent)
        check_published(one_settings)
