"""Ends a worker that looks alive but does nothing: Faust and aiokafka have several ways to get there.

A thread, not a task, since a blocked event loop is one of the things it must notice. What it looks at are facts about
progress, each with the time it last changed; the limits are the caller's.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn

from stream.fatal import die

_PERIOD_S = 1.0


def _die(reason: str) -> NoReturn:
    die(reason, "watchdog")


class Progress(NamedTuple):
    """One thing that must move: ``value`` changes whenever it does; ``idle`` says it has no reason to.

    ``stuck_s_max`` is how long it may stand still, None: as long as anything else.
    """

    name: str
    value: object
    idle: bool
    stuck_s_max: float | None = None


class Watchdog(threading.Thread):
    """Calls ``die`` when a thing that is not idle has not moved for too long, or something is known to be dead."""

    def __init__(
        self,
        progress: Callable[[], Iterable[Progress]],
        dead: Callable[[], Iterable[str]],
        stuck_s_max: float,
        end: Callable[[str], object] = _die,
    ) -> None:
        super().__init__(name="lurm-watchdog", daemon=True)
        self._progress = progress
        self._dead = dead
        self._stuck_s_max = stuck_s_max
        self._end = end
        self._moved: dict[str, tuple[object, float]] = {}

    def run(self) -> None:
        """Look once a second, as long as there is a process: its last moments may hang as well."""
        while (reason := self.look(time.monotonic())) is None:
            time.sleep(_PERIOD_S)
        self._end(reason)

    def look(self, now_s: float) -> str | None:
        """Why the worker must end, if it must."""
        for reason in self._dead():
            return reason
        before, self._moved = self._moved, {}
        for name, value, idle, stuck_s_max in self._progress():
            known, since_s = before.get(name, (None, now_s))
            if idle or name not in before or value != known:
                since_s = now_s
            self._moved[name] = (value, since_s)
            if now_s - since_s > (self._stuck_s_max if stuck_s_max is None else stuck_s_max):
                return f"{name} has not moved for {now_s - since_s:.0f} s"
        return None
