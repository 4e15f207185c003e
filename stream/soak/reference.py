"""The plain reference: what the bags of events are, in dictionaries, loops and the standard library's calendar.

It shares nothing with the product's arithmetic; the soak and the tests compare the stream with it.
"""

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from state.periods import Scale

MS_PER_DAY = 24 * 60 * 60 * 1000
_EPOCH = datetime.date(1970, 1, 1).toordinal()


class PlainEvent(NamedTuple):
    """One event whose item belongs to this interest."""

    user: bytes
    interest: int
    ts_ms: int
    weight: int = 1


Bags = Mapping[tuple[bytes, str, str], Mapping[int, int]]


class Reference:
    """Counts events one by one."""

    def __init__(self, events: Iterable[PlainEvent] = ()) -> None:
        self._counts: dict[tuple[bytes, int], Counter[int]] = defaultdict(Counter)
        self._newest: dict[bytes, int] = {}
        for event in events:
            self.add(event)

    @property
    def n_users(self) -> int:
        """Users with an event."""
        return len(self._newest)

    def add(self, event: PlainEvent) -> None:
        """Count an event."""
        day = event.ts_ms // MS_PER_DAY
        self._counts[event.user, day][event.interest] += event.weight
        self._newest[event.user] = max(self._newest.get(event.user, day), day)

    def bags(self, scales: Iterable[Scale]) -> Bags:
        """(user, scale, label of the period) -> interest -> count, days only inside the user's window."""
        names = [scale.name for scale in scales]
        found: dict[tuple[bytes, str, str], Counter[int]] = defaultdict(Counter)
        for (user, day), counts in self._counts.items():
            for name in names:
                if name != "day" or len(names) == 1 or in_window(day, self._newest[user]):
                    found[user, name, label(name, day)].update(counts)
        return found


def bags(events: Iterable[PlainEvent], scales: Iterable[Scale]) -> Bags:
    """The bags of these events; see `Reference.bags`."""
    return Reference(events).bags(scales)


def in_window(day: int, newest_day: int) -> bool:
    """Whether a day is in the calendar month of the newest day or in the one before."""
    return _month(newest_day) - _month(day) <= 1


@cache
def label(scale: str, day: int) -> str:
    """What the calendar calls the period that a day belongs to."""
    date = _date(day)
    week = date.isocalendar()
    return {
        "day": date.isoformat(),
        "week": f"{week.year:04d}-W{week.week:02d}",
        "month": f"{date.year:04d}-{date.month:02d}",
        "quarter": f"{date.year:04d}-Q{(date.month + 2) // 3}",
        "year": f"{date.year:04d}",
    }[scale]


def _month(day: int) -> int:
    date = _date(day)
    return 12 * date.year + date.month


def _date(day: int) -> datetime.date:
    return datetime.date.fromordinal(_EPOCH + day)
