import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lurm_model.interests import clustering
from lurm_model.interests.clustering import kmeans, nearest


def blobs(n_blobs: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(n_blobs, 16, generator=generator), dim=1)
    owner = torch.arange(n_blobs).repeat_interleave(size)
    return normalize(centres[owner] + 0.02 * torch.randn(len(owner), 16, generator=generator), dim=1), owner


def test_separate_groups_of_vectors_are_found() -> None:
    vectors, owner = blobs(8, 40, 0)
    _, cluster = kmeans(vectors, torch.ones(len(vectors)), 24, seed=1)
    pairs = {(int(c), int(o)) for c, o in zip(cluster, owner, strict=True)}
    assert len(pairs) == len(set(cluster.tolist())), "a cluster mixes two groups"


def test_clusters_are_the_nearest_centroids_of_length_one() -> None:
    vectors, _ = blobs(5, 30, 3)
    centroids, cluster = kmeans(vectors, torch.ones(len(vectors)), 7, seed=2)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(cluster, (vectors @ centroids.T).argmax(dim=1))


def test_no_cluster_is_empty_when_a_group_is_drawn_many_times() -> None:
    vectors, _ = blobs(4, 50, 5)
    weights = torch.ones(len(vectors))
    weights[:50] = 1e6
    _, cluster = kmeans(vectors, weights, 20, seed=0)
    assert len(cluster.unique()) == 20


def test_what_happens_often_gets_clusters_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(400, 16, generator=generator), dim=1)
    weights = torch.ones(400)
    weights[:40] = 1e4
    _, cluster = kmeans(vectors, weights, 80, seed=0)
    assert len(cluster[:40].unique()) == 40


def test_equal_vectors_share_a_cluster_and_bound_the_number_of_clusters() -> None:
    vectors = torch.eye(3).repeat(5, 1)
    centroids, cluster = kmeans(vectors, torch.ones(15), 10, seed=0)
    assert len(centroids) == 3
    torch.testing.assert_close(cluster[:3].repeat(5), cluster)


def test_equal_seeds_give_equal_clusters() -> None:
    vectors, _ = blobs(6, 30, 9)
    first, second = (kmeans(vectors, torch.ones(len(vectors)), 10, seed=4)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_tiles_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = blobs(6, 30, 9)
    whole = nearest(vectors, vectors[::4])
    monkeypatch.setattr(clustering, "TILE_CPU", (11, 7))
    tiled = nearest(vectors, vectors[::4])
    torch.testing.assert_close(tiled[0], whole[0])
    np.testing.assert_array_equal(whole[1], tiled[1])
    np.testing.assert_array_equal(whole[1], (vectors @ vectors[::4].T).argmax(dim=1))


def lloyd(vectors: np.ndarray, weights: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spherical k-means in double precision by its definition, one cluster at a time."""
    centroids, before = start.copy(), -np.inf
    for _ in range(1 + clustering.ITERATIONS):
        similarity = vectors @ centroids.T
        cluster = similarity.argmax(axis=1)
        mean = np.average(similarity.max(axis=1), weights=weights)
        if mean < before + clustering.IMPROVEMENT_MIN:
            break
        before, reached = mean, centroids.copy()
        for k in range(len(centroids)):
            total = (weights[cluster == k, None] * vectors[cluster == k]).sum(axis=0)
            centroids[k] = total / np.linalg.norm(total)
    else:
        return reached, cluster
    return centroids, cluster


@pytest.mark.parametrize("improvement_min", [1e-3, -1.0])
def test_centroids_and_clusters_are_those_of_plain_weighted_lloyd(
    improvement_min: float, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(clustering, "TILE_CPU", (64, 16))
    monkeypatch.setattr(clustering, "IMPROVEMENT_MIN", improvement_min)
    vectors = normalize(torch.from_numpy(rng.normal(size=(300, 8)).astype(np.float32)), dim=1)
    weights = torch.from_numpy(rng.integers(1, 50, 300).astype(np.float32))
    with monkeypatch.context() as nothing:
        nothing.setattr(clustering, "ITERATIONS", 0)
        start, _ = kmeans(vectors, weights, 40, seed=3)
    centroids, cluster = kmeans(vectors, weights, 40, seed=3)
    expected, expected_cluster = lloyd(vectors.double().numpy(), weights.double().numpy(), start.double().numpy())
    np.testing.assert_allclose(centroids.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(cluster.numpy(), expected_cluster)


def test_passes_end_when_they_no_longer_help_and_progress_ends_with_them() -> None:
    vectors, _ = blobs(8, 40, 0)
    seen: list[tuple[int, int]] = []
    kmeans(vectors, torch.ones(len(vectors)), 8, 1, lambda _, done, total: seen.append((done, total)))
    assert 2 < len(seen) < clustering.ITERATIONS
    assert [done == total for done, total in seen] == [False] * (len(seen) - 1) + [True]


def test_no_cluster_is_empty_after_the_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uneven weights on a circle pull centroids away from all that they had; some of these seeds end so."""
    monkeypatch.setattr(clustering, "ITERATIONS", 1)
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        vectors = normalize(torch.randn(200, 2, generator=generator), dim=1)
        centroids, cluster = kmeans(vectors, torch.rand(200, generator=generator) ** 8, 60, seed)
        assert len(cluster.unique()) == len(centroids) == 60, f"seed={seed}"


def test_an_empty_cluster_takes_the_worst_served_vector_or_goes_if_all_are_served() -> None:
    vectors = torch.eye(3)
    centroids = torch.stack([vectors[0], normalize(vectors[1] + 0.5 * vectors[2], dim=0), -vectors[0]])
    filled, cluster = clustering._fill(vectors, torch.ones(3), centroids, *nearest(vectors, centroids))
    torch.testing.assert_close(filled[2], vectors[2])
    assert cluster.tolist() == [0, 1, 2]
    kept, cluster = clustering._fill(vectors[:2], torch.ones(2), vectors, *nearest(vectors[:2], vectors))
    torch.testing.assert_close(kept, vectors[:2])
    assert cluster.tolist() == [0, 1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_cuda_finds_the_clusters_of_the_cpu_and_the_very_same_ones_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "TILE_CUDA", (512, 4))
    vectors, _ = blobs(8, 400, 0)
    weights = torch.arange(1, len(vectors) + 1, dtype=torch.float32)
    expected, expected_cluster = kmeans(vectors, weights, 8, seed=1)
    first, second = (kmeans(vectors.cuda(), weights.cuda(), 8, seed=1) for _ in range(2))
    torch.testing.assert_close(first[0].cpu(), expected)
    torch.testing.assert_close(first[1].cpu(), expected_cluster)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
