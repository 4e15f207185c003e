import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.interests.nearest import VECTORS_AT_ONCE, Nearest


def plainly(vectors: np.ndarray, centroids: np.ndarray) -> list[int]:
    return (vectors.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1).tolist()


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("n_centroids", [1, 15, 17, 9_001])
def test_the_nearest_is_found_whatever_the_precision_of_the_coarse_pass(coarse: torch.dtype, n_centroids: int) -> None:
    rng = np.random.default_rng(3)
    centroids = (rng.normal(size=(n_centroids, 12)) * rng.uniform(0.01, 9, (n_centroids, 1))).astype(np.float32)
    vectors = rng.normal(size=(2 * VECTORS_AT_ONCE + 3, 12)).astype(np.float32)
    nearest = Nearest(centroids)
    nearest._coarse = coarse
    assert nearest(vectors).tolist() == plainly(vectors, centroids)
    assert nearest(vectors[:0]).tolist() == []


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.bfloat16, torch.float32]), st.floats(1e-6, 1e3))
def test_of_centroids_that_hardly_differ_the_nearest_is_found_and_of_equal_ones_the_first(
    seed: int, coarse: torch.dtype, step: float
) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(3, 7))
    centroids = (base[rng.integers(0, 3, 90)] + rng.choice([0, step * 1e-4], (90, 7))).astype(np.float32)
    vectors = rng.normal(size=(5, 7)).astype(np.float32)
    nearest = Nearest(centroids)
    nearest._coarse = coarse
    scores = vectors.astype(np.float64) @ centroids.astype(np.float64).T
    for row, found in zip(scores, nearest(vectors).tolist(), strict=True):
        assert row[found] >= row.max() - 1e-12 * np.abs(row).max()
        assert not (centroids[:found] == centroids[found]).all(axis=1).any()
