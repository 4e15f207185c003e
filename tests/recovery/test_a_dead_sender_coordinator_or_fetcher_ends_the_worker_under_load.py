import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Settings
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, wait_applied, wait_until

BREAKABLE = Path(__file__).with_name("breakable_worker.py")


@pytest.mark.slow
def test_a_dead_sender_coordinator_or_fetcher_ends_the_worker_under_load(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    """Each can leave a process that looks alive: its batches wait for ever, its group forgets it, nothing is read."""
    traffic = Traffic(settings, seed=39)
    with traffic.flowing(1000):
        for task in ("sender", "coordinator", "faust-fetcher", "events-fetcher", "control-fetcher"):
            with WorkerProcess(settings, tmp_path / f"{task}.log", [sys.executable, BREAKABLE, task]) as worker:
                worker.ready()
                wait_until(partial(worker.metric, "lurm_events_total", outcome="applied"))
                worker.signal(signal.SIGRTMIN)
                assert worker.wait() == EXIT_FATAL, worker.output()
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
