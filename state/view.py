"""What a store holds at one instant, read for a whole batch of users: their caches, and the rows these leave to read.

Invariant: both iterators were made with no write between them, so they show one state of the database; nothing here
outlives the call that asked for it (I7).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.caches import NONE, Caches
from state.history import Rows, newest_days
from state.periods import DAY, Int64, window_start
from state.rows import decode_tails, decode_values, encode_keys, scan_range
from state.scan import check_read, scan

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
        first, cached = caches.closed_day + 1, caches.closed_day != NONE
        rows = self._read(users, first, cached)
        holds = cached & _have_day(rows, first)
        rows = self._read_again(rows, users, cached & ~holds, first, holds)
        if windowed:
            start = window_start(np.where(holds, newest_days(rows, len(users)), 0))
            moved = holds & (start < first) & (start != caches.head["window_start"])
            rows = self._read_again(rows, users, moved, start, holds)
        return rows, holds

    def _read_again(
        self, rows: Rows, users: Sequence[bytes], chosen: NDArray[np.bool_], first: Int64, from_day: NDArray[np.bool_]
    ) -> Rows:
        """The rows, with those of the chosen users as `_read` finds them now."""
        if not chosen.any():
            return rows
        places = np.flatnonzero(chosen)
        again = self._read([users[place] for place in places.tolist()], first[places], from_day[places])
        return rows.take(np.flatnonzero(~chosen[rows.user])).merge(replace(again, user=places[again.user]))

    def _read(self, users: Sequence[bytes], first: Int64, from_day: NDArray[np.bool_]) -> Rows:
        """All rows of every user; of those marked by ``from_day`` only the days from their first one on."""
        starts = encode_keys(users, np.arange(len(users)), np.full(len(users), DAY.code), first)
        keys, values, lengths = list[bytes](), list[bytes](), list[int]()
        for user, start, only_days in zip(users, starts, from_day.tolist(), strict=True):
            n_before = len(keys)
            begin, after = (start, user + _AFTER_DAYS) if only_days else scan_range(user)
            for key, value in scan(self._rows, begin, after):
                keys.append(key)
                values.append(value)
            lengths.append(len(keys) - n_before)
        scale, period = decode_tails(keys)
        seq, event_time_ms, bags, active = decode_values(values)
        return Rows(np.repeat(np.arange(len(users)), lengths), scale, period, seq, event_time_ms, active, bags)


def _have_day(rows: Rows, day: Int64) -> NDArray[np.bool_]:
    """Which users have a row of their day, bool[n]."""
    have = np.zeros(len(day), bool)
    have[rows.user[(rows.scale == DAY.code) & (rows.period == day[rows.user])]] = True
    return have
