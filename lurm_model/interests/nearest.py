"""The centroid with the largest product with a vector, exactly, at the speed of half precision where the CPU has it.

A coarse pass rules out nearly all centroids; what its rounding leaves open is compared one by one in float64. So the
answer depends neither on the precision of that pass, which is the machine's, nor on the vectors beside one.
"""

from functools import cached_property
from typing import Final

import numpy as np
import torch

from lurm_model.interests.weighting import Float32
from state.periods import Int64

# Centroids of one product, and vectors: their scores fit into a core's cache.
_BLOCK: Final = 8_192
VECTORS_AT_ONCE: Final = 256
# Scores are looked at again by so many neighbours, of which the largest is kept.
_GROUP: Final = 16
# How far a score may be off, in units of both lengths: two roundings of a factor and one of the sum. A sum of float32
# is off by less than the half of this.
_OFF: Final = {torch.bfloat16: 3.1 * 2**-8, torch.float32: 5e-6}
# Pairs of vector and group that are compared exactly at once.
_EXACT_AT_ONCE: Final = 4_096


class Nearest:
    """Finds centroids; ``float32[D, d]`` of any length, which must not change."""

    def __init__(self, centroids: Float32) -> None:
        self._centroids = centroids
        fast = torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch tells it nowhere else
        self._coarse = torch.bfloat16 if fast else torch.float32

    def __call__(self, vectors: Float32) -> Int64:
        """The nearest centroid of each, int64[n]; of several the first."""
        parts = [
            self._of_some(vectors[start : start + VECTORS_AT_ONCE]) for start in range(0, len(vectors), VECTORS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @cached_property
    def _blocks(self) -> list[torch.Tensor]:
        """The centroids in coarse numbers; the last stands again until its group is full."""
        places = np.minimum(np.arange(-(-len(self._centroids) // _GROUP) * _GROUP), len(self._centroids) - 1)
        padded = torch.from_numpy(np.ascontiguousarray(self._centroids[places], np.float32))
        coarse = padded.to(self._coarse)
        return [coarse[start : start + _BLOCK] for start in range(0, len(coarse), _BLOCK)]

    @cached_property
    def _length_max(self) -> float:
        return float(np.linalg.norm(self._centroids, axis=1).max())

    def _of_some(self, vectors: Float32) -> Int64:
        columns = torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(self._coarse).T.contiguous()
        # Of every group the largest score, [n_groups, n].
        largest = torch.cat([(block @ columns).view(-1, _GROUP, len(vectors)).amax(1) for block in self._blocks])
        off = 2 * _OFF[self._coarse] * self._length_max * np.linalg.norm(vectors, axis=1)
        scores = largest.float()
        least = scores.amax(0) - torch.from_numpy(off).float()
        vector, group = (each.numpy() for each in torch.nonzero(~(scores < least).T, as_tuple=True))
        return self._exact(vectors, vector, group)

    def _exact(self, vectors: Float32, vector: Int64, group: Int64) -> Int64:
        """Compare the centroids of these groups, vectors ascending."""
        best = np.full(len(vectors), -np.inf)
        found = np.zeros(len(vectors), np.int64)
        for start in range(0, len(vector), _EXACT_AT_ONCE):
            row = np.repeat(vector[start : start + _EXACT_AT_ONCE], _GROUP)
            cluster = (group[start : start + _EXACT_AT_ONCE, None] * _GROUP + np.arange(_GROUP)).ravel()
            cluster = np.minimum(cluster, len(self._centroids) - 1)
            exact = np.einsum("ij,ij->i", vectors[row].astype(np.float64), self._centroids[cluster].astype(np.float64))
            order = np.lexsort((cluster, -exact, row))
            rows, first = np.unique(row[order], return_index=True)
            winner, score = cluster[order][first], exact[order][first]
            # What was found before has the lower cluster, since groups ascend.
            better = score > best[rows]
            best[rows[better]], found[rows[better]] = score[better], winner[better]
        return found
