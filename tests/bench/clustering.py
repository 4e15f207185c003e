"""The codebook's k-means beside faiss's in the same run: as many passes, equal data, clusters and threads.

A tenth as many items as events, a tenth as many clusters as items; ``--events 10000000 --rounds 1`` is the full size,
10^6 items in 10^5 clusters. Items are groups of uneven size around common directions. Both sides search once more than
they pass, for the clusters at the end; the seconds of a pass are those of a search and its update.
"""

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lurm_model.interests.clustering import kmeans

WIDTH, THREADS, SEED = 64, 2, 0
ITEMS_OF_A_GROUP, SPREAD = 30, 0.6


class Result(NamedTuple):
    """What a side took, how many passes it made, and the items' mean similarity to their centroids."""

    clock_s: float
    cpu_s: float
    passes: int
    similarity: float
    used: int


def items(n: int) -> Tensor:
    """Vectors of length 1 in groups whose sizes follow a power law."""
    generator = torch.Generator().manual_seed(SEED)
    n_groups = max(2, n // ITEMS_OF_A_GROUP)
    centres = torch.randn(n_groups, WIDTH, generator=generator)
    share = np.arange(1, n_groups + 1) ** -0.7
    group = np.random.default_rng(SEED).choice(n_groups, n, p=share / share.sum())
    return normalize(centres[torch.from_numpy(group)] + SPREAD * torch.randn(n, WIDTH, generator=generator), dim=1)


def ours(vectors: Tensor, n_clusters: int) -> Result:
    """As training does it, every item of equal weight; it stops by itself."""
    passes: set[int] = set()

    def progress(stage: str, done: int, total: int) -> None:
        if done < total:
            passes.add(done)

    start, start_cpu = perf_counter(), process_time()
    centroids, cluster = kmeans(vectors, torch.ones(len(vectors)), n_clusters, SEED, progress)
    clock_s, cpu_s = perf_counter() - start, process_time() - start_cpu
    similarity = float((vectors * centroids[cluster]).sum(dim=1).mean())
    return Result(clock_s, cpu_s, len(passes), similarity, len(cluster.unique()))


def faiss_side(vectors: Tensor, n_clusters: int, passes: int) -> Result:
    """``faiss.Kmeans`` on all items, exact search, and the search for every item's cluster at the end."""
    import faiss  # noqa: PLC0415 - an optional peer

    faiss.omp_set_num_threads(THREADS)
    points = vectors.numpy()
    start, start_cpu = perf_counter(), process_time()
    peer = faiss.Kmeans(
        WIDTH, n_clusters, niter=passes, spherical=True, seed=SEED, min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )  # fmt: skip
    peer.train(points)
    similarity, cluster = peer.index.search(points, 1)
    clock_s, cpu_s = perf_counter() - start, process_time() - start_cpu
    return Result(clock_s, cpu_s, passes, float(similarity.mean()), len(np.unique(cluster)))


def run(n_events: int, rounds: int) -> None:
    """Print both sides and their ratio."""
    n_items = max(1000, n_events // 10)
    n_clusters = n_items // 10
    torch.set_num_threads(THREADS)
    print(f"\nclustering: {n_clusters:,} clusters of {n_items:,} items of width {WIDTH}, {THREADS} threads each")
    vectors = items(n_items)
    if find_spec("faiss") is None:
        print("faiss is not here to compare with: pip install 'lurm-stream[bench]'")
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(_shown("ours", lambda: ours(vectors, n_clusters)))
        if find_spec("faiss") is not None:
            theirs.append(_shown("faiss", lambda: faiss_side(vectors, n_clusters, mine[-1].passes)))
    if theirs:
        clock, cpu = (
            statistics.median(getattr(r, name) for r in mine) / statistics.median(getattr(r, name) for r in theirs)
            for name in ("clock_s", "cpu_s")
        )
        print(f"ours takes {clock:.2f} x the time of faiss, {cpu:.2f} x its processor time (below 1 is quicker)")


def _shown(name: str, side: Callable[[], Result]) -> Result:
    result = side()
    searches = result.passes + 1
    print(f"{name:6} {result.clock_s:>8,.1f} s ({result.clock_s / searches:,.1f} a pass)  "
          f"{result.cpu_s:>8,.1f} s of processor time ({result.cpu_s / searches:,.1f} a pass)  {result.passes} passes  "
          f"mean similarity {result.similarity:.4f}  clusters in use {result.used:,}", flush=True)  # fmt: skip
    return result
