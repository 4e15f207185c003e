"""Views of lives to learn from: two random halves of each, and its part before a day beside what came after."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lurm_model.interests.weighting import Float32
from lurm_model.smen.collate import Batch, collate, user_range
from lurm_model.smen.config import SmenConfig
from state.bags import Bags
from state.history import Rows, ScaleBags, resolve
from state.periods import Int64

# After which share of the training data's days of users lives are cut: not before there is something to tell of, nor at
# the very end. Shares of the calendar would be moved by a few wrong times, and by a business that grows.
CUT_SHARES = (1 / 3, 0.9)
CUT_DAYS_MIN = 3

Resolved = Mapping[str, ScaleBags]


@dataclass(frozen=True, slots=True)
class Views:
    """What a batch of n users is learned from: two halves, the past before a day as on that day, and the future.

    Past and future are None where the data is too short; who has no past has no future either.
    """

    halves: tuple[Batch, Batch]
    past: Batch | None
    future: Batch | None

    def batches(self) -> list[Batch]:
        """All that are there."""
        return [*self.halves, *(view for view in (self.past, self.future) if view)]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> "Views":
        """The inverse of `batches`."""
        first, second, *timed = batches
        return cls((first, second), *timed) if timed else cls((first, second), None, None)

    def to(self, device: str) -> "Views":
        """The same on a device."""
        return Views.of([batch.to(device) for batch in self.batches()])


@dataclass(frozen=True, slots=True)
class Reader:
    """How bags become tensors."""

    config: SmenConfig
    idf: Float32

    def collate(self, view: Resolved, start: int, stop: int, reference_day: int) -> Batch:
        """The users start .. stop - 1 of a view."""
        part = {name: user_range(periods, start, stop) for name, periods in view.items()}
        return collate(part, stop - start, replace(self.config, reference_day=reference_day), self.idf)


def epoch_views(
    rows: Rows, order: Int64, batch_users: int, reader: Reader, rng: np.random.Generator
) -> Iterator[Views]:
    """Views of these users in this order, drawn anew; every batch has a day of its own to cut at."""
    config, n = reader.config, len(order)
    drawn = _renumber(rows, order)
    halves = [resolve(view, config.scale_objects, n) for view in split_views(drawn, rng)]
    cuts = _cuts(rows.period, -(-n // batch_users), rng)
    sides = _sides(drawn, np.repeat(cuts, batch_users)[:n], n) if cuts is not None else ()
    resolved = [resolve(side, config.scale_objects, n) for side in sides]
    for number, start in enumerate(range(0, n, batch_users)):
        stop = min(start + batch_users, n)
        a, b = (reader.collate(half, start, stop, config.reference_day) for half in halves)
        as_of = config.reference_day if cuts is None else int(cuts[number]) - 1
        timed = [reader.collate(side, start, stop, as_of) for side in resolved]
        yield Views.of([a, b, *timed])


def whole_lives(rows: Rows, users: Int64, batch_users: int, reader: Reader) -> Iterator[Batch]:
    """All there is of these users, as of the training data's last day."""
    config, n = reader.config, len(users)
    lives = resolve(_renumber(rows, users), config.scale_objects, n)
    for start in range(0, n, batch_users):
        yield reader.collate(lives, start, min(start + batch_users, n), config.reference_day)


def split_views(rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Two views: every single behaviour goes to one of them by the toss of a coin, so they share none."""
    first = rng.binomial(rows.bags.counts, 0.5).astype(np.uint32)
    return _with_counts(rows, first), _with_counts(rows, rows.bags.counts - first)


def _cuts(days: Int64, n: int, rng: np.random.Generator) -> Int64 | None:
    first = int(days.min())
    if int(days.max()) - first < CUT_DAYS_MIN:
        return None
    return np.maximum(np.quantile(days, rng.uniform(*CUT_SHARES, size=n), method="nearest"), first + 1)


def _sides(rows: Rows, cut_of: Int64, n_users: int) -> tuple[Rows, Rows]:
    """The rows before each user's cut, and those from it on of users who have any before."""
    early = rows.period < cut_of[rows.user]
    has_past = np.bincount(rows.user[early], minlength=n_users) > 0
    return rows.take(np.flatnonzero(early)), rows.take(np.flatnonzero(~early & has_past[rows.user]))


def _renumber(rows: Rows, order: Int64) -> Rows:
    """The rows of these users only, who are numbered in this order."""
    place = np.full(int(rows.user.max()) + 1, -1, np.int64)
    place[order] = np.arange(len(order))
    chosen = np.flatnonzero(place[rows.user] >= 0)
    taken = rows.take(chosen[np.argsort(place[rows.user[chosen]], kind="stable")])
    return replace(taken, user=place[taken.user])


def _with_counts(rows: Rows, counts: NDArray[np.uint32]) -> Rows:
    """The same rows with other counts; pairs and rows left with nothing disappear."""
    kept = counts > 0
    ends = np.concatenate([[0], np.cumsum(kept)])[rows.bags.offsets]
    bags = Bags(ends.astype(np.int64), rows.bags.interests[kept], counts[kept])
    return replace(rows, bags=bags).take(np.flatnonzero(np.diff(ends)))
