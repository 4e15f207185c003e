import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lurm_model import clustering
from lurm_model.clustering import kmeans, nearest


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


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = blobs(6, 30, 9)
    whole = nearest(vectors, vectors[::20])
    monkeypatch.setattr(clustering, "CHUNK_CELLS", 50)
    chunked = nearest(vectors, vectors[::20])
    np.testing.assert_array_equal(whole[1], chunked[1])
