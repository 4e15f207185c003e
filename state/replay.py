"""Which users a stretch of the changelog leaves dirty: those with a row at or above the published watermark."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from state.dirty import MarkColumns
from state.periods import SCALE_BY_CODE
from state.rows import decode_header, decode_keys


@dataclass(frozen=True, slots=True)
class DirtyUsers:
    """Users in order of their first ``seq``, and the columns of their marks."""

    users: list[bytes]
    columns: MarkColumns


def newest_per_user(
    rows: Mapping[bytes, bytes | None], timestamp_ms: Mapping[bytes, int], watermark: int
) -> DirtyUsers:
    """The dirty users of these rows; tombstones make nobody dirty."""
    live = {key: value for key, value in rows.items() if value is not None}
    seq = decode_header(list(live.values()))[0]
    recent = np.flatnonzero(seq >= watermark)
    if not len(recent):
        none = np.zeros(0, np.int64)
        return DirtyUsers([], MarkColumns(none, none, none, none))
    keys = list(live)
    chosen = [keys[i] for i in recent.tolist()]
    users, user, scale, period = decode_keys(chosen)
    day = np.select(
        [scale == code for code in SCALE_BY_CODE],
        [known.first_day(np.where(scale == code, period, 0)) for code, known in SCALE_BY_CODE.items()],
    )
    first_ms = np.fromiter([timestamp_ms[key] for key in chosen], np.int64, len(chosen))
    n, largest = len(users), np.iinfo(np.int64).max
    first, newest = np.full(n, largest), np.zeros(n, np.int64)
    earliest_ms, earliest_day = np.full(n, largest), np.full(n, largest)
    np.minimum.at(first, user, seq[recent])
    np.maximum.at(newest, user, seq[recent])
    np.minimum.at(earliest_ms, user, first_ms)
    np.minimum.at(earliest_day, user, day)
    order = np.argsort(first, kind="stable")
    columns = MarkColumns(first[order], newest[order], earliest_ms[order], earliest_day[order])
    return DirtyUsers([users[i] for i in order.tolist()], columns)
