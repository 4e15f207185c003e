"""Workers forked from a server that has imported everything: processes of their own, without three seconds of imports.

What differs from the console script is how it begins and that its interpreter's end is short; tests/worker has both.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stream.cli import main
from tests.workers import WorkerProcess

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["stream.worker.app", "stream.commands.worker"])


def run_worker(environment: Mapping[str, str], log: Path) -> None:
    """Become `lurm worker` with this environment."""
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(output, standard)
    sys.argv = ["lurm", "worker"]
    main()


class ForkedProcess:
    """A forked worker, asked like a `subprocess.Popen`."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._process = _FORKS.Process(target=run_worker, args=(environment, log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("lurm worker", timeout or 0)
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedWorker(WorkerProcess):
    """A `WorkerProcess` that is forked."""

    def _launch(self, environment: Mapping[str, str]) -> ForkedProcess:  # type: ignore[override]  # asked like one
        return ForkedProcess(environment, self.log)
