"""Dirty marks: which users changed since their embedding was last published.

Invariant: a user whose rows hold a ``seq`` that no published embedding covers has a mark. Marks stand in order of
their first ``seq``, oldest first, and wait either to be taken by an encode cycle or for that cycle's acknowledgement.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import is_
from sys import getsizeof
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.periods import Int64

_LAYOUT = struct.Struct("<qqqq")
_first_seq_in = struct.Struct("<q").unpack_from
_newest_seq_in = struct.Struct("<8xq").unpack_from
_earliest_day_in = struct.Struct("<24xq").unpack_from
# Objects of a mark in memory: its own bytes, and those of its user without the id's length.
_OBJECTS_BYTES: Final = getsizeof(bytes(_LAYOUT.size)) + getsizeof(b"")


class Mark(NamedTuple):
    """Why a user must be encoded again.

    **Units**: ``first_ms`` is the Kafka record time of the first change (Unix ms); where that is no time of an arrival,
    the negative of when we read it: since then somebody waits, but how fresh what we publish is cannot be told.
    ``earliest_day`` is a day number.
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

    def encode(self) -> list[bytes]:
        """`Mark.encode` of each user."""
        raw = np.stack(self, axis=1).astype("<i8").tobytes()
        return [raw[start : start + _LAYOUT.size] for start in range(0, len(raw), _LAYOUT.size)]


class DirtyMarks:
    """The marks of one partition in memory; the store keeps in its column family what a restart needs of them.

    A mark stands here as the bytes that the store keeps, which take half of the memory of its numbers. While we own
    the partition a user's later changes write nothing: the stored mark stays true, since it exists, its first ``seq``
    is not too high and its earliest day not too late. Its newest ``seq`` may be too low, so a watermark drops marks
    only once it has passed everything we applied ourselves, ``owned_seq``.
    """

    def __init__(self, stored: Iterable[tuple[bytes, bytes]] = (), owned_seq: int = -1) -> None:
        self._waiting: dict[bytes, bytes] = _in_order(dict(stored))
        self._taken: dict[bytes, bytes] = {}
        self._owned_seq = owned_seq
        self._id_bytes = sum(map(len, self._waiting))

    def __len__(self) -> int:
        return len(self._waiting) + sum(user not in self._waiting for user in self._taken)

    def __contains__(self, user: bytes) -> bool:
        return user in self._waiting or user in self._taken

    @property
    def n_bytes(self) -> int:
        """Memory of all marks."""
        held = [marks for marks in (self._waiting, self._taken) if marks]
        return self._id_bytes + sum(len(marks) * _OBJECTS_BYTES + getsizeof(marks) for marks in held)

    def add(self, users: Sequence[bytes], columns: MarkColumns) -> list[tuple[bytes, bytes]]:
        """Mark the users of a batch we applied; returns what the store must write."""
        if not users:
            return []
        self._owned_seq = max(self._owned_seq, int(columns.newest_seq.max()))
        is_new, before = self._insert(users, columns)
        is_earlier = columns.earliest_day < before.earliest_day
        self._replace(users, is_earlier, before._replace(earliest_day=columns.earliest_day))
        writes, taken = [], self._taken
        for i in np.flatnonzero(is_new | is_earlier).tolist():
            in_flight = taken.get(users[i])
            if in_flight is None or columns.earliest_day[i] < _earliest_day_in(in_flight)[0]:
                writes.append((users[i], self._whole(users[i])))
        return writes

    def replay(self, users: Sequence[bytes], columns: MarkColumns) -> list[tuple[bytes, bytes]]:
        """Mark the users of changelog rows, which another owner may have written; returns what the store must write.

        As above, a user's later changes write nothing: the store remembers the newest ``seq`` it replayed.
        """
        is_new, before = self._insert(users, columns)
        is_earlier, is_later = columns.earliest_day < before.earliest_day, columns.newest_seq > before.newest_seq
        newest_seq = np.maximum(before.newest_seq, columns.newest_seq)
        earliest_day = np.minimum(before.earliest_day, columns.earliest_day)
        after = MarkColumns(before.first_seq, newest_seq, before.first_ms, earliest_day)
        self._replace(users, is_earlier | is_later, after)
        return [(users[i], self._whole(users[i])) for i in np.flatnonzero(is_new | is_earlier).tolist()]

    def _insert(self, users: Sequence[bytes], columns: MarkColumns) -> tuple[NDArray[np.bool_], MarkColumns]:
        """Mark whoever waits for nothing yet: which users these are, bool[n], and everybody's waiting marks."""
        new = columns.encode()
        waiting = list(map(self._waiting.setdefault, users, new))
        is_new = np.fromiter(map(is_, waiting, new), bool, len(new))
        self._id_bytes += sum(len(users[i]) for i in np.flatnonzero(is_new).tolist())
        return is_new, MarkColumns(*np.frombuffer(b"".join(waiting), "<i8").reshape(-1, len(MarkColumns._fields)).T)

    def _replace(self, users: Sequence[bytes], chosen: NDArray[np.bool_], columns: MarkColumns) -> None:
        """Give the chosen users these waiting marks."""
        marks = MarkColumns(*(column[chosen] for column in columns)).encode()
        for i, mark in zip(np.flatnonzero(chosen).tolist(), marks, strict=True):
            self._waiting[users[i]] = mark

    def _whole(self, user: bytes) -> bytes:
        waiting, taken = self._waiting[user], self._taken.get(user)
        return waiting if taken is None else _then(taken, waiting)

    def take(self, n: int) -> dict[bytes, Mark]:
        """Hand the oldest waiting marks to an encode cycle, which must answer with `publish`."""
        batch = dict(islice(self._waiting.items(), n))
        for user in batch:
            del self._waiting[user]
        # A dictionary that is emptied keeps its size until it is filled again.
        self._waiting = self._waiting or {}
        self._taken.update(batch)
        return {user: Mark.decode(mark) for user, mark in batch.items()}

    def publish(self, users: Iterable[bytes]) -> list[tuple[bytes, bytes | None]]:
        """The embeddings of taken users are acknowledged; returns what the store must write (None: delete)."""
        writes: list[tuple[bytes, bytes | None]] = []
        for user in users:
            del self._taken[user]
            self._id_bytes -= len(user)
            writes.append((user, self._waiting.get(user)))
        return writes

    def drop_below(self, watermark: int) -> list[bytes]:
        """Forget users whose every change is below the watermark; returns them."""
        if watermark <= self._owned_seq:
            return []
        published = []
        for user, mark in self._waiting.items():
            if _first_seq_in(mark)[0] >= watermark:
                break  # they stand in this order: what follows is not published either
            if _newest_seq_in(mark)[0] < watermark:
                published.append(user)
        for user in published:
            del self._waiting[user]
        self._id_bytes -= sum(map(len, published))
        return published

    def forget(self, users: Iterable[bytes]) -> None:
        """Remove users whatever their state."""
        for user in users:
            for marks in (self._waiting, self._taken):
                if marks.pop(user, None) is not None:
                    self._id_bytes -= len(user)

    def sort(self) -> None:
        """Restore the order of first ``seq``, and put taken marks back: the partition starts a new ownership."""
        merged = self._taken
        if merged:
            for user, mark in self._waiting.items():
                merged[user] = _then(merged[user], mark) if user in merged else mark
        self._waiting = _in_order(merged or self._waiting)
        self._taken = {}
        self._id_bytes = sum(map(len, self._waiting))

    @property
    def oldest(self) -> Mark | None:
        """The mark with the lowest first ``seq``."""
        firsts = [Mark.decode(next(iter(marks.values()))) for marks in (self._taken, self._waiting) if marks]
        return min(firsts, default=None)


def _in_order(marks: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """By first ``seq``; a million, which nearly always are in order, must not hold up whoever waits."""
    first_seq = np.frombuffer(b"".join(marks.values()), "<i8")[:: len(MarkColumns._fields)]
    if (first_seq[1:] >= first_seq[:-1]).all():
        return marks
    items = list(marks.items())
    return dict(map(items.__getitem__, np.argsort(first_seq, kind="stable").tolist()))


def _then(mark: bytes, later: bytes) -> bytes:
    return Mark.decode(mark).then(Mark.decode(later)).encode()
