"""Bags-of-Interests as one compressed sparse batch, and the one operation on them: summing.

A `Bags` holds n bags; bag ``i`` is the pairs ``offsets[i]:offsets[i + 1]``, its interests strictly ascending.
Counts are exact integers up to 2^32 - 1, where they stay (our decision: a bot's billionth click must not stop a user).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state.periods import Int64

UInt32 = NDArray[np.uint32]
COUNT_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Bags:
    """n sparse bags. **Shapes**: offsets int64[n + 1], interests uint32[nnz], counts uint32[nnz]."""

    offsets: Int64
    interests: UInt32
    counts: UInt32

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def owners(self) -> Int64:
        """Which bag each pair belongs to, int64[nnz]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    @classmethod
    def empty(cls, n: int = 0) -> "Bags":
        """n bags with nothing in them."""
        return cls(np.zeros(n + 1, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint32))

    def take(self, rows: Int64) -> "Bags":
        """The bags of these rows, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Bags(offsets, self.interests[source], self.counts[source])


def sum_pairs(owners: Int64, interests: UInt32, counts: UInt32, n: int) -> Bags:
    """n bags from loose pairs: the counts of equal (owner, interest) are added up.

    **Shapes**: owners int64[p] in [0, n), interests uint32[p], counts uint32[p]; in any order.
    """
    if not len(owners):
        return Bags.empty(n)
    code = (owners << 32) | interests
    order = np.argsort(code, kind="stable")
    code = code[order]
    first = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    total = np.add.reduceat(counts[order].astype(np.int64), first)
    code = code[first]
    offsets = np.searchsorted(code, np.arange(n + 1, dtype=np.int64) << 32).astype(np.int64)
    return Bags(offsets, (code & 0xFFFFFFFF).astype(np.uint32), np.minimum(total, COUNT_MAX).astype(np.uint32))


def sum_bags(owners: Int64, bags: Bags, n: int) -> Bags:
    """n bags, each the sum of the given bags that it owns. **Shapes**: owners int64[len(bags)] in [0, n)."""
    return sum_pairs(owners[bags.owners], bags.interests, bags.counts, n)


def concat(parts: Sequence[Bags]) -> Bags:
    """All bags of the parts, one part after the other."""
    lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
    return Bags(
        np.cumsum(lengths, dtype=np.int64),
        np.concatenate([np.zeros(0, np.uint32), *(part.interests for part in parts)]),
        np.concatenate([np.zeros(0, np.uint32), *(part.counts for part in parts)]),
    )
