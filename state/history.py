"""What a user's stored rows mean: the bag of every period of every scale.

A coarse period's bag is its stored row *plus* every stored day row of it, so it does not matter whether its days
were already rolled up. The day scale shows only the user's window; without a coarse scale it shows every day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from state.bags import Bags, concat, sum_bags
from state.periods import DAY, Int64, Scale, window_start

_COLUMNS = ("user", "scale", "period", "seq", "event_time_ms", "active")


@dataclass(frozen=True, slots=True)
class Rows:
    """The stored rows of a batch of users, ordered by user.

    **Shapes**: user, scale (its code), period, seq, event_time_ms, active all int64[r]; ``bags`` has r bags.
    **Units**: period is the scale's period number, event_time_ms Unix milliseconds of the newest event, active the bits
    of a coarse period's active days (`Scale.active_bit`), 0 in day rows and in coarse rows of the first format.
    """

    user: Int64
    scale: Int64
    period: Int64
    seq: Int64
    event_time_ms: Int64
    active: Int64
    bags: Bags

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: Int64) -> "Rows":
        """These rows, in this order."""
        return Rows(**{name: getattr(self, name)[chosen] for name in _COLUMNS}, bags=self.bags.take(chosen))

    def merge(self, other: "Rows") -> "Rows":
        """The rows of both, ordered by user; those of one user stay in the order they came in."""
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS}
        both = Rows(**columns, bags=concat([self.bags, other.bags]))
        return both.take(np.argsort(both.user, kind="stable"))


@dataclass(frozen=True, slots=True)
class ScaleBags:
    """One scale's non-empty periods of a batch of users, ordered by (user, period), each pair once.

    **Shapes**: user int64[k] in [0, n_users), period int64[k], active int64[k] (the bits of the days that are known to
    have been active); ``bags`` has k bags.
    """

    user: Int64
    period: Int64
    active: Int64
    bags: Bags

    def __len__(self) -> int:
        return len(self.user)


def newest_days(rows: Rows, n_users: int) -> Int64:
    """The day of each user's newest event, int64[n_users]; users without a day row get the smallest int64."""
    newest = np.full(n_users, np.iinfo(np.int64).min, np.int64)
    days = rows.scale == DAY.code
    np.maximum.at(newest, rows.user[days], rows.period[days])
    return newest


def before_window(rows: Rows, n_users: int) -> Int64:
    """Indices of the day rows that lie before their user's window: what a roll-up takes away."""
    days = np.flatnonzero(rows.scale == DAY.code)
    if not len(days):
        return days
    starts = window_start(newest_days(rows, n_users)[rows.user[days]])
    return days[rows.period[days] < starts]


def resolve(rows: Rows, scales: Sequence[Scale], n_users: int) -> Mapping[str, ScaleBags]:
    """The periods of every scale, by the scale's name."""
    old = before_window(rows, n_users) if len(scales) > 1 else np.zeros(0, np.int64)
    days = rows.scale == DAY.code
    shown = days.copy()
    shown[old] = False
    resolved = {}
    for scale in scales:
        chosen = shown if scale is DAY else days | (rows.scale == scale.code)
        resolved[scale.name] = periods_of(rows, scale, np.flatnonzero(chosen))
    return resolved


def periods_of(rows: Rows, scale: Scale, chosen: Int64) -> ScaleBags:
    """The periods of one scale that the chosen rows, its own and those of days, add up to."""
    return periods_and_owners(rows, scale, chosen)[0]


def periods_and_owners(rows: Rows, scale: Scale, chosen: Int64) -> tuple[ScaleBags, Int64]:
    """The same, and which of the k periods each chosen row adds to, int64[len(chosen)]."""
    none = np.zeros(0, np.int64)
    if not len(chosen):
        return ScaleBags(none, none, none, Bags.empty()), none
    stored, user = rows.period[chosen], rows.user[chosen]
    is_day = rows.scale[chosen] == DAY.code
    day = np.where(is_day, stored, 0)
    of_day = scale.of_day(day)
    period = np.where(is_day, of_day, stored)
    # One sortable number per (user, period): a period number fits 32 bits whatever the scale.
    code, owners = np.unique((user << 32) + (period + 2**31), return_inverse=True)
    bags = sum_bags(owners.astype(np.int64), rows.bags.take(chosen), len(code))
    active = np.zeros(len(code), np.int64)
    np.bitwise_or.at(active, owners, np.where(is_day, scale.active_bit(day, of_day), rows.active[chosen]))
    return ScaleBags(code >> 32, (code & 0xFFFFFFFF) - 2**31, active, bags), owners
