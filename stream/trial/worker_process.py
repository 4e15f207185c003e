"""A `lurm worker` as a child process: for the soak and the tests, which end it in every way there is.

Signals go to its own pid only, and it is gone when its context is left.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from stream.errors import LurmError
from stream.failpoints import VARIABLE
from stream.operations import scrape
from stream.settings import ENV_PREFIX, Settings

DEADLINE_S = 60.0
# What a supervisor gives a worker between SIGTERM and SIGKILL, as documented.
GRACE_S = 30.0
WORKER = (sys.executable, "-m", "stream.cli", "worker")
_PORT = re.compile(r"serving metrics: .*:(\d+)$", re.MULTILINE)
_POLL_S = 0.1


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment variables that give a child process these settings."""
    changed = settings.model_dump(exclude_defaults=True)
    return {
        f"{ENV_PREFIX}{section}__{key}".upper(): value.get_secret_value()
        if isinstance(value, SecretStr)
        else str(value)
        for section, leaves in changed.items()
        for key, value in leaves.items()
        if not isinstance(value, dict)
    }


class ChildProcess:
    """One process at a time, started again and again; its output is appended to one log."""

    def __init__(self, settings: Settings, log: Path, command: Sequence[str | Path] = WORKER) -> None:
        self.settings = settings
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._start_of_log = 0

    def start(self, failpoint: str | None = None) -> Self:
        """Start the process, perhaps with a failpoint. **Raises** `LurmError` while it runs."""
        if self._process is not None and self.returncode is None:
            raise LurmError(f"the process runs already: pid={self._process.pid}")
        self._start_of_log = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._launch(self._environment(failpoint))
        return self

    def output(self) -> str:
        """What it printed since its last start."""
        return self.log.read_bytes()[self._start_of_log :].decode(errors="replace") if self.log.exists() else ""

    @property
    def started(self) -> bool:
        """Whether it ever was."""
        return self._process is not None

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs or never ran."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The process it runs as. **Raises** `LurmError` when it was never started."""
        if self._process is None:
            raise LurmError("the process was never started")
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it was halted by SIGSTOP."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code, within the grace. **Raises** `LurmError`."""
        self.signal(signal.SIGTERM)
        return self.wait(GRACE_S)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit code, once it ended. **Raises** `LurmError`."""
        if self._process is None:
            raise LurmError("the process was never started")
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise LurmError(f"the process does not end within {deadline_s:g} s:\n{self.output()}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _launch(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _environment(self, failpoint: str | None) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        armed = {} if failpoint is None else {VARIABLE: failpoint}
        return kept | environment_of(self.settings) | {"OMP_NUM_THREADS": "1"} | armed


class WorkerProcess(ChildProcess):
    """A process that serves its metrics and says when it is ready."""

    def ready(self, deadline_s: float = DEADLINE_S) -> Self:
        """Start unless it runs, and wait until it answers that it is ready. **Raises** `LurmError`."""
        if self._process is None or self.returncode is not None:
            self.start()
        deadline = time.monotonic() + deadline_s
        while self.get("/readyz")[0] != 200:
            if self.returncode is not None or time.monotonic() > deadline:
                raise LurmError(f"the worker is not ready: exit_code={self.returncode} output:\n{self.output()}")
            time.sleep(_POLL_S)
        return self

    @property
    def port(self) -> int | None:
        """Where it serves metrics, once it does."""
        found = _PORT.search(self.output())
        return int(found.group(1)) if found else None

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page; 0 while nobody answers."""
        port = self.port
        if port is None:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def samples(self) -> scrape.Samples:
        """All its metrics; empty while nobody answers."""
        port = self.port
        return {} if port is None else scrape.scrape(port)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return scrape.value(self.samples(), name, **labels)
