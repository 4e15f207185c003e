"""The bags of users as people read them: one entry per user, scale and period, with calendar labels.

A coarse period is complete whether or not its days were rolled up; days are those of the user's window.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from state.history import Rows, ScaleBags, resolve
from state.periods import DAY, Int64, Scale


class PeriodBag(NamedTuple):
    """One bag; ``seq`` is that of the newest row that entered it."""

    user_id: str
    scale: str
    period: str
    seq: int
    interests: dict[int, int]


def period_bags(users: Sequence[bytes], rows: Rows, scales: Sequence[Scale]) -> Iterator[PeriodBag]:
    """All bags, in order of user, scale (finest first) and time."""
    periods = resolve(rows, scales, len(users))
    parts = [(scale, periods[scale.name], _newest_seq(rows, scale, periods[scale.name])) for scale in scales]
    ends = [np.searchsorted(part.user, np.arange(len(users) + 1)).tolist() for _, part, _ in parts]
    for number, user in enumerate(users):
        user_id = user.decode()
        for (scale, part, seq), end in zip(parts, ends, strict=True):
            for at in range(end[number], end[number + 1]):
                label = scale.label(int(part.period[at]))
                yield PeriodBag(user_id, scale.name, label, int(seq[at]), _interests(part, at))


def _interests(part: ScaleBags, at: int) -> dict[int, int]:
    own = slice(*part.bags.offsets[at : at + 2].tolist())
    return dict(zip(part.bags.interests[own].tolist(), part.bags.counts[own].tolist(), strict=True))


def _newest_seq(rows: Rows, scale: Scale, part: ScaleBags) -> Int64:
    """The newest ``seq`` that entered each period, int64[k]."""
    newest = np.zeros(len(part), np.int64)
    if not len(part):
        return newest
    chosen = np.flatnonzero((rows.scale == DAY.code) | (rows.scale == scale.code))
    own = rows.scale[chosen] == scale.code
    stored = rows.period[chosen]
    period = np.where(own, stored, scale.of_day(np.where(own, 0, stored)))
    codes, wanted = _code(rows.user[chosen], period), _code(part.user, part.period)
    at = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
    shown = wanted[at] == codes
    np.maximum.at(newest, at[shown], rows.seq[chosen[shown]])
    return newest


def _code(user: Int64, period: Int64) -> Int64:
    """One sortable number per (user, period); a period number fits 32 bits whatever the scale."""
    return (user << 32) + (period + 2**31)
