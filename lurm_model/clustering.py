"""The large-scale clustering module: spherical k-means in torch, chunked so that 10^5 clusters of 10^6 items fit.

Deterministic by seed on one machine; a cluster that loses all its items restarts at a badly served one.
"""

import torch
from torch import Tensor

from lurm_model.progress import Progress, silent

# Bounds the similarities held at once: 2^26 float32 are 256 MiB.
CHUNK_CELLS = 1 << 26
ITERATIONS = 12


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar centroid of every vector. **Shapes**: [n, d], [D, d] -> similarity float32[n], int64[n]."""
    rows = max(1, CHUNK_CELLS // len(centroids))
    parts = [(part @ centroids.T).max(dim=1) for part in torch.split(vectors, rows)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def kmeans(
    vectors: Tensor, weights: Tensor, n_clusters: int, seed: int, progress: Progress = silent
) -> tuple[Tensor, Tensor]:
    """Centroids of length 1 and every vector's cluster.

    The start is drawn without replacement, in proportion to the weights: what happens often gets clusters of its own.

    **Shapes**: vectors float32[n, d] of length 1, weights float32[n] -> float32[D, d], int64[n]; D is at most the
    number of different vectors. **Source**: the paper clusters items; spherical weighted k-means is our decision.
    """
    distinct, owner = torch.unique(vectors, dim=0, return_inverse=True)
    total = torch.zeros(len(distinct), device=vectors.device).index_add_(0, owner, weights)
    n_clusters = min(n_clusters, len(distinct))
    centroids = distinct[_draw(total, n_clusters, seed)]
    for iteration in range(ITERATIONS):
        similarity, cluster = nearest(distinct, centroids)
        centroids = _update(distinct, total, cluster, centroids, similarity)
        progress("k-means", iteration + 1, ITERATIONS)
    _, cluster = nearest(distinct, centroids)
    return centroids, cluster[owner]


def _draw(weights: Tensor, n: int, seed: int) -> Tensor:
    """n different rows, by the Gumbel trick: without replacement, in proportion to the weights, any size."""
    uniform = torch.rand(len(weights), generator=torch.Generator().manual_seed(seed)).to(weights.device)
    keys = weights.clamp_min(1e-12).log() - (-uniform.clamp(1e-12, 1 - 1e-7).log()).log()
    return keys.topk(n).indices.sort().values


def _update(vectors: Tensor, weights: Tensor, cluster: Tensor, centroids: Tensor, similarity: Tensor) -> Tensor:
    """The clusters' weighted mean directions; empty ones restart at the worst served vectors, heavy ones first."""
    sums = torch.zeros_like(centroids).index_add_(0, cluster, vectors * weights[:, None])
    size = torch.bincount(cluster, minlength=len(centroids))
    empty = torch.nonzero(size == 0).flatten()
    if len(empty):
        sums[empty] = vectors[((1 - similarity) * weights).topk(len(empty)).indices]
    return torch.nn.functional.normalize(sums, dim=1)
