"""Dirty marks: which users changed since their embedding was last published.

Invariant: a user whose rows hold a ``seq`` that no published embedding covers has a mark. Marks stand in order of
their first ``seq``, oldest first, and wait either to be taken by an encode cycle or for that cycle's acknowledgement.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from state.periods import Int64

_LAYOUT = struct.Struct("<qqqq")


class Mark(NamedTuple):
    """Why a user must be encoded again.

    **Units**: ``first_ms`` is the Kafka record time of the first change (Unix ms), ``earliest_day`` a day number.
    """

    first_seq: int
    newest_seq: int
    first_ms: int
    earliest_day: int

    def encode(self) -> bytes:
        """32 bytes, little-endian."""
        return _LAYOUT.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> "Mark":
        """The inverse of `encode`."""
        return cls(*_LAYOUT.unpack(value))

    def then(self, later: "Mark") -> "Mark":
        """The mark after a later change of the same user."""
        return Mark(
            self.first_seq,
            max(self.newest_seq, later.newest_seq),
            self.first_ms,
            min(self.earliest_day, later.earliest_day),
        )


class MarkColumns(NamedTuple):
    """The fields of `Mark` for many users. **Shapes**: all int64[n_users]."""

    first_seq: Int64
    newest_seq: Int64
    first_ms: Int64
    earliest_day: Int64


class DirtyMarks:
    """The marks of one partition in memory; the store keeps in its column family what a restart needs of them.

    While we own the partition a user's later changes write nothing: the stored mark stays true, since it exists, its
    first ``seq`` is not too high and its earliest day not too late. Its newest ``seq`` may be too low, so a watermark
    drops marks only once it has passed everything we applied ourselves, ``owned_seq``.
    """

    def __init__(self, stored: Iterable[tuple[bytes, Mark]] = (), owned_seq: int = -1) -> None:
        self._waiting: dict[bytes, Mark] = dict(sorted(stored, key=lambda item: item[1].first_seq))
        self._taken: dict[bytes, Mark] = {}
        self._owned_seq = owned_seq

    def __len__(self) -> int:
        return len(self._waiting) + sum(user not in self._waiting for user in self._taken)

    def __contains__(self, user: bytes) -> bool:
        return user in self._waiting or user in self._taken

    def add(self, users: Sequence[bytes], columns: MarkColumns) -> list[tuple[bytes, bytes]]:
        """Mark the users of a batch we applied; returns what the store must write."""
        if not users:
            return []
        self._owned_seq = max(self._owned_seq, int(columns.newest_seq.max()))
        waiting, taken = self._waiting, self._taken
        writes = []
        days = columns.earliest_day.tolist()
        for i, user in enumerate(users):
            known = waiting.get(user)
            if known is not None and days[i] >= known.earliest_day:
                continue
            if known is None:
                waiting[user] = Mark(*(int(column[i]) for column in columns))
            else:
                waiting[user] = known._replace(earliest_day=days[i])
            in_flight = taken.get(user)
            if in_flight is None or days[i] < in_flight.earliest_day:
                writes.append((user, self._whole(user).encode()))
        return writes

    def replay(self, users: Sequence[bytes], columns: MarkColumns) -> list[tuple[bytes, bytes]]:
        """Mark the users of changelog rows, which another owner may have written; returns what the store must write.

        As above, a user's later changes write nothing: the store remembers the newest ``seq`` it replayed.
        """
        waiting = self._waiting
        writes = []
        for user, first, newest, first_ms, day in zip(users, *(column.tolist() for column in columns), strict=True):
            known = waiting.get(user)
            if known is None:
                waiting[user] = Mark(first, newest, first_ms, day)
            elif day < known.earliest_day:
                waiting[user] = known.then(Mark(first, newest, first_ms, day))
            else:
                if newest > known.newest_seq:
                    waiting[user] = Mark(known.first_seq, newest, known.first_ms, known.earliest_day)
                continue
            writes.append((user, self._whole(user).encode()))
        return writes

    def _whole(self, user: bytes) -> Mark:
        waiting, taken = self._waiting[user], self._taken.get(user)
        return waiting if taken is None else taken.then(waiting)

    def take(self, n: int) -> dict[bytes, Mark]:
        """Hand the oldest waiting marks to an encode cycle, which must answer with `publish`."""
        batch = dict(islice(self._waiting.items(), n))
        for user in batch:
            del self._waiting[user]
        self._taken.update(batch)
        return batch

    def publish(self, users: Iterable[bytes]) -> list[tuple[bytes, bytes | None]]:
        """The embeddings of taken users are acknowledged; returns what the store must write (None: delete)."""
        writes: list[tuple[bytes, bytes | None]] = []
        for user in users:
            del self._taken[user]
            newer = self._waiting.get(user)
            if newer is None:
                writes.append((user, None))
            else:
                writes.append((user, newer.encode()))
        return writes

    def drop_below(self, watermark: int) -> list[bytes]:
        """Forget users whose every change is below the watermark; returns them."""
        if watermark <= self._owned_seq:
            return []
        published = []
        for user, mark in self._waiting.items():
            if mark.first_seq >= watermark:
                break  # they stand in this order: what follows is not published either
            if mark.newest_seq < watermark:
                published.append(user)
        for user in published:
            del self._waiting[user]
        return published

    def forget(self, users: Iterable[bytes]) -> None:
        """Remove users whatever their state."""
        for user in users:
            self._waiting.pop(user, None)
            self._taken.pop(user, None)

    def sort(self) -> None:
        """Restore the order of first ``seq``, and put taken marks back: the partition starts a new ownership."""
        merged = dict(self._taken)
        for user, mark in self._waiting.items():
            merged[user] = merged[user].then(mark) if user in merged else mark
        self._waiting = dict(sorted(merged.items(), key=lambda item: item[1].first_seq))
        self._taken = {}

    @property
    def oldest(self) -> Mark | None:
        """The mark with the lowest first ``seq``."""
        firsts = [next(iter(marks.values())) for marks in (self._taken, self._waiting) if marks]
        return min(firsts, default=None)
