"""Which users a stretch of the changelog leaves dirty: those with a row at or above the published watermark."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from state.dirty import MarkColumns
from state.periods import SCALE_BY_CODE, Int64
from state.rows import decode_header, decode_keys

# Key, value (None deletes) and time in Unix ms of a changelog record.
Record = tuple[bytes, bytes | None, int]


@dataclass(frozen=True, slots=True)
class DirtyUsers:
    """Users in order of their first ``seq``, the columns of their marks, and the newest ``seq`` of all rows."""

    users: list[bytes]
    columns: MarkColumns
    newest_seq: int


def newest_per_user(rows: Collection[Record], watermark: int) -> DirtyUsers:
    """The dirty users of these rows, each key once; tombstones make nobody dirty."""
    seq = decode_header([value for _, value, _ in rows if value is not None])[0]
    recent = np.flatnonzero(seq >= watermark)
    newest_seq = int(seq.max(initial=-1))
    if not len(recent):
        none = np.zeros(0, np.int64)
        return DirtyUsers([], MarkColumns(none, none, none, none), newest_seq)
    live = [record for record in rows if record[1] is not None]
    chosen = [live[i] for i in recent.tolist()] if len(recent) < len(live) else live
    users, user, scale, period = decode_keys([record[0] for record in chosen])
    times = np.fromiter([record[2] for record in chosen], np.int64, len(chosen))
    n, largest = len(users), np.iinfo(np.int64).max
    first, newest = np.full(n, largest), np.zeros(n, np.int64)
    earliest_ms, earliest_day = np.full(n, largest), np.full(n, largest)
    np.minimum.at(first, user, seq[recent])
    np.maximum.at(newest, user, seq[recent])
    np.minimum.at(earliest_ms, user, times)
    np.minimum.at(earliest_day, user, _first_day(scale, period))
    order = np.argsort(first, kind="stable")
    columns = MarkColumns(first[order], newest[order], earliest_ms[order], earliest_day[order])
    return DirtyUsers([users[i] for i in order.tolist()], columns, newest_seq)


def _first_day(scale: Int64, period: Int64) -> Int64:
    day = np.empty(len(scale), np.int64)
    for code in np.unique(scale).tolist():
        own = scale == code
        day[own] = SCALE_BY_CODE[code].first_day(period[own])
    return day
