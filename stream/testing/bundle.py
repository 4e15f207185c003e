"""A bundle that needs no data and no training: every item's interest is known beforehand, the weights are random.

What a test or a soak checks does not depend on how good the vectors are, only on that everybody computes the same.
"""

from typing import Final

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.periods import parse_scales

N_INTERESTS: Final = 20
FIRST_DAY: Final = 20_000  # 2024-10-04


def tiny_bundle(model_seed: int = 0, space_seed: int = 0, scales: str = "day,month") -> Bundle:
    """A bundle of 20 interests; interest i has the items ``item-i`` and ``item-(i + 20)``."""
    rng = np.random.default_rng(space_seed)
    centroids = rng.normal(size=(N_INTERESTS, 8)).astype(np.float32)
    items = {f"item-{i}": i % N_INTERESTS for i in range(2 * N_INTERESTS)}
    codebook = Codebook(items, centroids, np.ones(N_INTERESTS + 1, np.float32), {}, np.zeros((0, 8), np.float32))
    names = tuple(scale.name for scale in parse_scales(scales))
    config = SmenConfig(codebook.n_interests, 8, FIRST_DAY, names, n_vectors=4, n_recurrent=2, d_anchor=8)
    model_rng = np.random.default_rng(model_seed)
    weights = {
        name: model_rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in Smen(config).state_dict().items()
    }
    return Bundle.build(config, codebook, weights, {}, {})
