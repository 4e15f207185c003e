"""The large-scale clustering module: spherical k-means in torch, tiled so that 10^5 clusters of 10^6 items are quick.

Deterministic by seed on one machine, on CUDA too: sums are taken in the items' order, never by atomics. A cluster that
loses all its items restarts at a badly served one, so none is empty at the end.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize, pad

from lurm_model.progress import Progress, silent

# Similarities are made and searched in tiles of vectors x centroids. A CPU's fit its cache, which halves the time:
# out of memory the maximum costs as much as the product. A GPU wants few and large ones: 2^26 float32 are 256 MiB.
TILE_CPU, TILE_CUDA = (1 << 12, 1 << 8), (1 << 13, 1 << 13)
ITERATIONS = 12
# A pass that lifts the mean similarity by less is the last but one: the items' own vectors are not that exact.
IMPROVEMENT_MIN = 1e-3


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar centroid of every vector. **Shapes**: [n, d], [D, d] -> similarity float32[n], int64[n].

    Which tile holds it is found first and which column of it last, since a maximum alone costs a tenth of one with its
    place.
    """
    height, width = TILE_CPU if vectors.device.type == "cpu" else TILE_CUDA
    tiles = torch.split(centroids, width)
    tile_of = torch.cat([_best_tile(rows, tiles) for rows in torch.split(vectors, height)])
    similarity, cluster = torch.empty_like(vectors[:, 0]), torch.empty_like(tile_of)
    order = tile_of.argsort(stable=True)
    found = torch.split(order, torch.bincount(tile_of, minlength=len(tiles)).tolist())
    for number, (tile, rows) in enumerate(zip(tiles, found, strict=True)):
        for part in torch.split(rows, height):
            best, column = (vectors[part] @ tile.T).max(dim=1)
            similarity[part], cluster[part] = best, column + number * width
    return similarity, cluster


def kmeans(
    vectors: Tensor, weights: Tensor, n_clusters: int, seed: int, progress: Progress = silent
) -> tuple[Tensor, Tensor]:
    """Centroids of length 1 and every vector's cluster.

    The start is drawn without replacement, in proportion to the weights: what happens often gets clusters of its own.

    **Shapes**: vectors float32[n, d] of length 1, weights float32[n] -> float32[D, d], int64[n]; D is at most the
    number of different vectors. **Source**: the paper clusters items; spherical weighted k-means is our decision.
    """
    distinct, owner = torch.unique(vectors, dim=0, return_inverse=True)
    total = _sums(weights[:, None], torch.ones_like(weights), owner, len(distinct)).flatten()
    n_clusters = min(n_clusters, len(distinct))
    centroids = distinct[_draw(total, n_clusters, seed)]
    similarity, cluster = nearest(distinct, centroids)
    for iteration in range(ITERATIONS):
        progress("k-means", iteration, ITERATIONS)
        before = float(similarity @ total)
        centroids = _update(distinct, total, cluster, centroids, similarity)
        similarity, cluster = nearest(distinct, centroids)
        if float(similarity @ total) < before + IMPROVEMENT_MIN * float(total.sum()):
            break
    centroids, cluster = _fill(distinct, total, centroids, similarity, cluster)
    progress("k-means", 1, 1)
    return centroids, cluster[owner]


def _best_tile(vectors: Tensor, tiles: tuple[Tensor, ...]) -> Tensor:
    """The tile of each vector's most similar centroid, the first of equals: int64[n]."""
    best = vectors.new_full((len(vectors),), -torch.inf)
    tile_of = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for number, tile in enumerate(tiles):
        highest = (vectors @ tile.T).amax(dim=1)
        tile_of[highest > best] = number
        best = torch.maximum(best, highest)
    return tile_of


def _draw(weights: Tensor, n: int, seed: int) -> Tensor:
    """n different rows, by the Gumbel trick: without replacement, in proportion to the weights, any size."""
    uniform = torch.rand(len(weights), generator=torch.Generator().manual_seed(seed)).to(weights.device)
    keys = weights.clamp_min(1e-12).log() - (-uniform.clamp(1e-12, 1 - 1e-7).log()).log()
    return _highest(keys, n).sort().values


def _update(vectors: Tensor, weights: Tensor, cluster: Tensor, centroids: Tensor, similarity: Tensor) -> Tensor:
    """The clusters' weighted mean directions; empty ones restart at the worst served vectors, heavy ones first."""
    sums = _sums(vectors, weights, cluster, len(centroids))
    empty = _empty(cluster, len(centroids))
    sums[empty] = vectors[_highest((1 - similarity) * weights, len(empty))]
    return normalize(sums, dim=1)


def _fill(
    vectors: Tensor, weights: Tensor, centroids: Tensor, similarity: Tensor, cluster: Tensor
) -> tuple[Tensor, Tensor]:
    """Centroids and clusters, none empty: an interest that nothing belongs to would weigh most of all.

    Each round serves somebody better and nobody worse; should rounding leave nothing to better, the empty are dropped.
    """
    while len(empty := _empty(cluster, len(centroids))):
        fresh = vectors[_highest((1 - similarity) * weights, len(empty))]
        nearer, which = nearest(vectors, fresh)
        if not bool((moves := nearer > similarity).any()):
            there, cluster = torch.unique(cluster, return_inverse=True)
            return centroids[there], cluster
        centroids = centroids.index_copy(0, empty, fresh)
        similarity, cluster = torch.maximum(similarity, nearer), torch.where(moves, empty[which], cluster)
    return centroids, cluster


def _sums(vectors: Tensor, weights: Tensor, cluster: Tensor, n_clusters: int) -> Tensor:
    """Weighted sums of every cluster's vectors, always in the same order. **Shapes**: [n, d] -> [n_clusters, d]."""
    order = cluster.argsort(stable=True)
    offsets = pad(torch.bincount(cluster, minlength=n_clusters).cumsum(0), (1, 0))
    return embedding_bag(
        order, vectors, offsets, mode="sum", per_sample_weights=weights[order], include_last_offset=True
    )


def _empty(cluster: Tensor, n_clusters: int) -> Tensor:
    return torch.nonzero(torch.bincount(cluster, minlength=n_clusters) == 0).flatten()


def _highest(values: Tensor, n: int) -> Tensor:
    """Where the n highest values stand, the first of equals first."""
    return values.argsort(descending=True, stable=True)[:n]
