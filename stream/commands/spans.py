"""What is said of the times of events that were read from files: their span, and what hardly anybody means."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from state.periods import MS_PER_DAY, Int64
from stream.printable import say

# Hardly any behaviour is older; seconds that are taken for milliseconds are.
_OLD_MS: Final = 10_957 * MS_PER_DAY  # 2000-01-01
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Span:
    """From when to when events lie, and how many lie where few are meant to."""

    def __init__(self, now_ms: int | None = None) -> None:
        self.n = self.n_old = self.n_future = 0
        self.first_ms = self.last_ms = 0
        self._now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms

    def add(self, ts_ms: Int64) -> None:
        """Take these events in. **Shapes**: int64[n]."""
        if not len(ts_ms):
            return
        first_ms, last_ms = int(ts_ms.min()), int(ts_ms.max())
        self.first_ms = min(self.first_ms, first_ms) if self.n else first_ms
        self.last_ms = max(self.last_ms, last_ms) if self.n else last_ms
        self.n += len(ts_ms)
        self.n_old += int(np.count_nonzero(ts_ms < _OLD_MS))
        self.n_future += int(np.count_nonzero(ts_ms > self._now_ms))

    def say(self) -> None:
        """Print it on stderr, and warn of times that look like another unit's."""
        if not self.n:
            return
        say(f"events={self.n} from {_moment(self.first_ms)} to {_moment(self.last_ms)} UTC", err=True)
        if self.n > 1 and self.last_ms - self.first_ms < MS_PER_DAY:
            _warn("all events lie within one day: nothing can be learned of time")
        for n, where in ((self.n_old, "before the year 2000"), (self.n_future, "in the future")):
            if n:
                _warn(f"{n} of {self.n} events are {where}")


def _warn(what: str) -> None:
    say(f"warning: {what}; is the unit of ts right? --time-unit names it", err=True)


def _moment(ms: int) -> str:
    try:
        return f"{_EPOCH + timedelta(milliseconds=ms):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"{ms} ms"
