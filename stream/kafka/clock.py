"""The time, which is never behind what a broker wrote: a machine whose clock is days behind must lose nothing.

Brokers write times of their own into the ends of transactions and into topics with LogAppendTime. A worker whose clock
is behind these would reject every event as one of the future, and write dead letters that retention deletes at once.
"""

import time
from collections.abc import Callable
from typing import Final

# Clocks that differ by less agree.
_BEHIND_MS_MIN: Final = 60_000


class Clock:
    """Tells the system's time, or, where that is more than a minute behind what a broker wrote, the broker's."""

    def __init__(
        self,
        system_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._system_ms, self._monotonic_ms = system_ms, monotonic_ms
        # What a broker's clock showed at least when ours, which nobody sets, stood at 0.
        self._began_ms = -(1 << 62)

    def broker_wrote(self, at_ms: int) -> None:
        """A broker's clock showed this time, now or before."""
        self._began_ms = max(self._began_ms, at_ms - self._monotonic_ms())

    @property
    def behind_ms(self) -> int:
        """How far the system's clock is behind, 0 where it is not."""
        behind = self._began_ms + self._monotonic_ms() - self._system_ms()
        return behind if behind > _BEHIND_MS_MIN else 0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._system_ms() + self.behind_ms
