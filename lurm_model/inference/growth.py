"""What newer counts add to periods that a hidden cache may know in part: numpy, for a whole batch of users at once.

A weight is a damped count, so the newer bag alone does not say what it adds: the cache holds the open period's bag,
and every newer pair is looked up there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lurm_model.interests.weighting import Float32, weights_of
from lurm_model.smen.collate import Float64, segment_sum
from state.bags import COUNT_MAX, Bags, concat, sum_bags
from state.caches import NONE, Caches
from state.history import ScaleBags
from state.periods import Int64

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Growth:
    """How k periods of one scale grow.

    **Shapes**: weights float32[nnz], what the weight of every pair of the newer bags gains; continues bool[k], whether
    the cache knows the period in part; gap int64[k] to the period before; gain_sq float64[k], what the squared norm
    gains; and of all that the periods hold, old and new: norm_sq, n_events, n_distinct float64[k], active int64[k].
    """

    weights: Float32
    continues: Bool
    gap: Int64
    gain_sq: Float64
    norm_sq: Float64
    n_events: Float64
    n_distinct: Float64
    active: Int64


def grow(caches: Caches, scale: int, periods: ScaleBags, idf: Float32) -> Growth:
    """How these periods of the scale (its place among the scales) grow from what the caches know."""
    head, bags, user = caches.head, periods.bags, periods.user
    continues = periods.period == head["open_period"][user, scale]
    found, before = _counts_before(caches, scale, periods, continues)
    after = np.minimum(before + bags.counts, COUNT_MAX)
    of_pair = idf[bags.interests]
    old, new = weights_of(before, of_pair), weights_of(after, of_pair)
    gain_sq = segment_sum(new.astype(np.float64) ** 2 - old.astype(np.float64) ** 2, bags.offsets)
    columns = ("norm_sq", "n_events", "n_pairs", "active")
    known = {name: np.where(continues, head[name][user, scale], 0) for name in columns}
    return Growth(
        weights=new - old,
        continues=continues,
        gap=_gaps(periods, head["last_period"][:, scale]),
        gain_sq=gain_sq,
        norm_sq=known["norm_sq"] + gain_sq,
        n_events=known["n_events"] + segment_sum((after - before).astype(np.float64), bags.offsets),
        n_distinct=known["n_pairs"] + segment_sum((~found).astype(np.float64), bags.offsets),
        active=known["active"] | periods.active,
    )


def _counts_before(caches: Caches, scale: int, periods: ScaleBags, continues: Bool) -> tuple[Bool, Int64]:
    """For every newer pair: whether the cache's bag of its period has its interest, and the count there."""
    known, bags = caches.bags, periods.bags
    found, counts = np.zeros(len(bags.interests), bool), np.zeros(len(bags.interests), np.int64)
    if len(known.interests) and continues.any():
        # Users ascend and so do the interests of a bag: the known pairs are sorted by this number already.
        code = (known.owners << 32) | known.interests
        wanted = ((periods.user * caches.n_scales + scale)[bags.owners] << 32) | bags.interests
        place = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
        found = (code[place] == wanted) & continues[bags.owners]
        counts[found] = known.counts[place[found]]
    return found, counts


def _gaps(periods: ScaleBags, last_period: Int64) -> Int64:
    previous = np.concatenate([periods.period[:1], periods.period[:-1]])
    first = np.diff(periods.user, prepend=-1) != 0
    previous[first] = last_period[periods.user[first]]
    return np.where(previous == NONE, 0, periods.period - previous)


def open_bags(caches: Caches, newer: list[ScaleBags], open_period: Int64) -> Bags:
    """The bags of the periods that go on: what the caches have of them and what is newer.

    **Shapes**: ``newer`` one per scale; open_period int64[n, S], `NONE` where no period is open -> n * S bags.
    """
    n_scales = caches.n_scales
    stays = np.flatnonzero((caches.head["open_period"] == open_period).ravel() & (open_period != NONE).ravel())
    owners, parts = [stays], [caches.bags.take(stays)]
    for scale, periods in enumerate(newer):
        chosen = np.flatnonzero(periods.period == open_period[periods.user, scale])
        owners.append(periods.user[chosen] * n_scales + scale)
        parts.append(periods.bags.take(chosen))
    return sum_bags(np.concatenate(owners), concat(parts), len(caches) * n_scales)
