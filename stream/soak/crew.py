"""The workers of a soak and their supervisor, which starts again whatever ended and remembers how it ended."""

import re
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stream.fatal import EXIT_FATAL
from stream.operations.scrape import Samples
from stream.settings import Settings
from stream.trial.worker_process import WorkerProcess

_LOOK_S = 0.5
_BROKER_ABSENT: Final = re.compile(
    r"BrokerUnavailable|no broker answered|KafkaConnectionError|Unable connect to|the broker did not answer"
)


class Member:
    """One worker, with a disk, a log and a member id of its own; started again while it is ``wanted``."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        state = settings.state.model_copy(update={"dir": folder / f"state-{name}"})
        worker = settings.worker.model_copy(update={"instance": name})
        own = settings.model_copy(update={"state": state, "worker": worker})
        self.name = name
        self.disk = folder / f"state-{name}"
        self.process = WorkerProcess(own, folder / f"worker-{name}.log")
        self.wanted = False
        self.failpoint: str | None = None
        self.lock = threading.Lock()

    @property
    def runs(self) -> bool:
        """Whether there is a process, halted or not."""
        return self.process.started and self.process.returncode is None

    @contextmanager
    def down(self, how: signal.Signals) -> Iterator[None]:
        """End it, and keep it from being started while the block runs."""
        with self.lock:
            self.end(how)
            yield

    def end(self, how: signal.Signals) -> None:
        """End it; the supervisor starts it again if it is wanted."""
        if self.runs:
            self.process.signal(signal.SIGCONT)
            self.process.signal(how)
            self.process.wait()


class Crew:
    """Supervises the members from a thread; ``n_starts`` and ``exits`` count, ``unexpected`` says what never may be."""

    def __init__(self, members: Sequence[Member], listen: Callable[[], None]) -> None:
        self.members = members
        self.n_starts = 0
        self.exits: Counter[int] = Counter()
        self.unexpected: list[str] = []
        self._samples: dict[tuple[str, int], Samples] = {}
        self._listen = listen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Crew":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for member in self.members:
            member.wanted = False
            member.end(signal.SIGKILL)

    def samples(self) -> Samples:
        """The metrics of all processes there ever were, as they were last seen, added up."""
        total: defaultdict[tuple[str, frozenset[tuple[str, str]]], float] = defaultdict(float)
        for samples in list(self._samples.values()):
            for key, number in samples.items():
                total[key] += number
        return total

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for member in self.members:
                if member.lock.acquire(blocking=False):
                    try:
                        self._look_after(member)
                    finally:
                        member.lock.release()
            self._listen()

    def _look_after(self, member: Member) -> None:
        if member.runs:
            if not member.process.is_stopped and (samples := member.process.samples()):
                self._samples[member.name, member.process.pid] = samples
        elif member.wanted:
            self._note_end(member)
            failpoint, member.failpoint = member.failpoint, None
            member.process.start(failpoint)
            self.n_starts += 1

    def _note_end(self, member: Member) -> None:
        code = member.process.returncode
        if code is None:
            return
        self.exits[code] += 1
        output = member.process.output()
        # A worker whose broker is away or does not answer says so and ends, and one that is asked to end before it can
        # listen just ends; any other refusal is a finding.
        expected = {0, EXIT_FATAL, -signal.SIGKILL, -signal.SIGTERM} | ({1} if _BROKER_ABSENT.search(output) else set())
        if code not in expected:
            complaints = [line for line in output.splitlines() if " INFO " not in line]
            self.unexpected.append(f"worker {member.name} ended: exit_code={code} said={complaints[-3:]}")
