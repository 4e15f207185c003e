"""What a store holds at one instant, read for a whole batch of users: their caches, and the rows these leave to read.

Invariant: both iterators were made with no write between them, so they show one state of the database; nothing here
outlives the call that asked for it (I7).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.caches import NONE, Caches
from state.history import Rows
from state.periods import DAY, Int64, window_start
from state.rows import PERIOD_BYTES, decode_periods, decode_tails, decode_values, encode_keys, scan_range
from state.scan import check_read, scan

_DAYS = bytes([0, DAY.code])
_AFTER_DAYS = bytes([0, DAY.code + 1])


class Held(NamedTuple):
    """What is stored of one user: the keys of the rows, and how many hidden caches."""

    rows: list[bytes]
    caches: int


class StoreView:
    """Reads one instant of a store, from one thread; cheapest when the users come in order of their ids.

    Every method **raises** `StoreCorrupt` rather than answer with less than is stored.
    """

    def __init__(self, rows: Any, caches: Any) -> None:
        self._rows = rows
        self._caches = caches

    def caches(self, users: Sequence[bytes]) -> list[bytes | None]:
        """The stored cache of every user, None where there is none."""
        seek, read_key, read_value = self._caches.seek, self._caches.key, self._caches.value
        found: list[bytes | None] = []
        for user in users:
            seek(user)
            key = read_key()
            if key is None:
                check_read(self._caches)
            found.append(read_value() if key == user else None)
        return found

    def held(self, user: bytes) -> Held:
        """What there is of this user."""
        keys = [key for key, _ in scan(self._rows, *scan_range(user))]
        return Held(keys, len([value for value in self.caches([user]) if value is not None]))

    def rows(self, users: Sequence[bytes], caches: Caches, windowed: bool) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows that the caches leave to read, and whose cache holds, bool[n]: of the others all rows are there.

        Whose window has moved (``windowed``: days before it are not shown) gets the days from its start on. A cache
        does not hold if the row of the day after its closed one is gone, rolled up without it. ``user`` of the rows is
        a place in ``users``.
        """
        first = caches.closed_day + 1
        newest, values = self._newest(users, caches.closed_day != NONE)
        holds = newest >= first
        if windowed:
            start = window_start(np.where(holds, newest, 0))
            moved = holds & (start != caches.head["window_start"])
            first = np.where(moved, np.minimum(first, start), first)
        # With no cache or a late start there is more to read than the newest day.
        values = [value if one else None for value, one in zip(values, (newest == first).tolist(), strict=True)]
        rows = self._read(users, first, holds, values)
        lost = holds & ~_have_day(rows, caches.closed_day + 1)
        if lost.any():
            holds &= ~lost
            rows = self._read(users, first, holds, [None] * len(users))
        return rows, holds

    def _newest(self, users: Sequence[bytes], wanted: NDArray[np.bool_]) -> tuple[Int64, list[bytes | None]]:
        """The newest day row of the wanted users: its day, before all days for the others, and its value."""
        seek, read_key, read_value = self._rows.seek_for_prev, self._rows.key, self._rows.value
        tails = [bytes(PERIOD_BYTES)] * len(users)
        values: list[bytes | None] = [None] * len(users)
        for place in np.flatnonzero(wanted).tolist():
            user = users[place]
            seek(user + _AFTER_DAYS)
            key = read_key()
            if key is None:
                check_read(self._rows)
            elif key.startswith(user + _DAYS):
                tails[place], values[place] = key[-PERIOD_BYTES:], read_value()
        newest = decode_periods(b"".join(tails))
        return np.where([value is None for value in values], NONE, newest), values

    def _read(
        self, users: Sequence[bytes], first: Int64, holds: NDArray[np.bool_], known: Sequence[bytes | None]
    ) -> Rows:
        starts = encode_keys(users, np.arange(len(users)), np.full(len(users), DAY.code), first)
        keys, values, lengths = list[bytes](), list[bytes](), list[int]()
        for user, start, from_day, value in zip(users, starts, holds.tolist(), known, strict=True):
            if value is not None:
                keys.append(start)
                values.append(value)
                lengths.append(1)
                continue
            n_before = len(keys)
            begin, after = (start, user + _AFTER_DAYS) if from_day else scan_range(user)
            for key, stored in scan(self._rows, begin, after):
                keys.append(key)
                values.append(stored)
            lengths.append(len(keys) - n_before)
        scale, period = decode_tails(keys)
        seq, event_time_ms, bags = decode_values(values)
        return Rows(np.repeat(np.arange(len(users)), lengths), scale, period, seq, event_time_ms, bags)


def _have_day(rows: Rows, day: Int64) -> NDArray[np.bool_]:
    """Which users have a row of their day, bool[n]."""
    have = np.zeros(len(day), bool)
    have[rows.user[(rows.scale == DAY.code) & (rows.period == day[rows.user])]] = True
    return have
