"""How a count becomes a weight: at read time, so that the state never stores anything derived from a model."""

import numpy as np
from numpy.typing import NDArray

from state.bags import Bags

Float32 = NDArray[np.float32]


def bag_weights(bags: Bags, idf: Float32) -> Float32:
    """The weight of every pair, ``log1p(count) * idf[interest]``.

    **Shapes**: idf float32[n_interests] -> float32[nnz]. The unknown interest has idf 0: it weighs nothing.
    **Source**: our decision (tf-idf with a damped count).
    """
    return weights_of(bags.counts, idf[bags.interests])


def weights_of(counts: NDArray[np.integer], idf: Float32) -> Float32:
    """The weights of these counts of interests with this idf. **Shapes**: [nnz] each."""
    return np.log1p(counts.astype(np.float32)) * idf


def inverse_frequency(n_owners: int, frequency: NDArray[np.int64]) -> Float32:
    """Smoothed idf, ``log((1 + n) / (1 + frequency)) + 1``. **Source**: our decision, the usual smoothed form."""
    return np.asarray(np.log((1 + n_owners) / (1 + frequency)) + 1, np.float32)
