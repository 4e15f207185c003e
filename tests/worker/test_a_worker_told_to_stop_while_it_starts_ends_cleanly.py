import signal
from pathlib import Path

import pytest

from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import WorkerProcess, wait_until


def catches_sigterm(worker: WorkerProcess) -> bool:
    """The process is past the first moments, in which no Python program can say what a signal means."""
    assert worker._process is not None
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("moment", ["while torch is imported", "before the group is joined"])
def test_a_worker_told_to_stop_while_it_starts_ends_cleanly(
    moment: str, settings: Settings, make_worker: MakeWorker
) -> None:
    worker = make_worker(settings).start()
    if moment == "while torch is imported":
        wait_until(lambda: catches_sigterm(worker))
    else:
        wait_until(lambda: worker.port is not None, explain=worker.output)
    assert worker.terminate() == 0, worker.output()
    assert "Traceback" not in worker.output()
