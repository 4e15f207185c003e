"""Roll-up: the days before a user's window become part of their month's row (and of any other coarse period's).

It is compaction, not information: every coarse period's bag is the same before and after (see `state.history`).
"""

from collections.abc import Sequence

import numpy as np

from state.history import Rows, before_window, periods_and_owners
from state.periods import DAY, Int64, Scale
from state.rows import Write, encode_keys, encode_values


def users_to_roll_up(rows: Rows, scales: Sequence[Scale], n_users: int) -> Int64:
    """The users that have days before their window. Without a coarse scale nobody has: all days stay."""
    if len(scales) == 1:
        return np.zeros(0, np.int64)
    return np.unique(rows.user[before_window(rows, n_users)])


def roll_up(users: Sequence[bytes], rows: Rows, scales: Sequence[Scale], closed: Int64 | None = None) -> list[Write]:
    """The rows to write (None: delete) so that no user has a day before the window. ``rows`` holds all their rows.

    ``closed``: each user's last day that may go, int64[n_users]; later ones stay, wherever the window begins.
    """
    old = before_window(rows, len(users))
    if closed is not None:
        old = old[rows.period[old] <= closed[rows.user[old]]]
    if len(scales) == 1 or not len(old):
        return []
    days = encode_keys(users, rows.user[old], rows.scale[old], rows.period[old])
    writes: list[Write] = [(key, None) for key in days]
    for scale in scales:
        if scale is not DAY:
            writes += _coarse_rows(users, rows, old, scale)
    return writes


def _coarse_rows(users: Sequence[bytes], rows: Rows, old: Int64, scale: Scale) -> list[Write]:
    stored = np.flatnonzero(rows.scale == scale.code)
    source = np.concatenate([stored, old])
    periods, owner = periods_and_owners(rows, scale, source)
    n = len(periods)
    seq, event_time_ms = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(seq, owner, rows.seq[source])
    np.maximum.at(event_time_ms, owner, rows.event_time_ms[source])
    changed = np.unique(owner[len(stored) :])
    keys = encode_keys(users, periods.user, np.full(n, scale.code), periods.period)
    values = encode_values(seq, event_time_ms, periods.bags, periods.active)
    return [(keys[i], values[i]) for i in changed.tolist()]
