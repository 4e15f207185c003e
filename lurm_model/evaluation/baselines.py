"""What SMEN is measured against: features of the same users from the same events, as one would build them by hand.

Source: our decision; the honest one to beat is mean pooling beside recency and frequency.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

from lurm_model.events import Events
from lurm_model.interests.items import embed_items, tf_idf, user_item_matrix
from lurm_model.interests.weighting import Float32, inverse_frequency
from state.periods import MS_PER_DAY, Int64, day_of

WEEKS = 14
SVD_RANKS = (64, 256)
SVD_ITERATIONS = 3
# A sketch's independent partitions of the item space; what an embedding's width leaves to each are its buckets.
PARTITIONS = 10

Features = Mapping[str, Callable[[], Any]]
Sized = Callable[[int], Any]


def baseline_features(events: Events, interest: Int64, cut_ms: int, width: int, seed: int) -> Features:
    """How to make every baseline's features, by name: one row per user of ``events``, dense or scipy sparse.

    **Shapes**: interest int64[n_items], width that of an embedding, M * H. **Units**: cut_ms is the Unix time in
    milliseconds the features look back from.
    """
    items = raw_bag(events, events.item, len(events.items))
    bag = raw_bag(events, interest[events.item], int(interest.max()) + 1)
    vectors = item_vectors(events, seed)
    sized = sized_features(events, items, vectors, width, seed)
    return {
        "bag": lambda: bag,
        "item_bag": lambda: items,
        **{f"svd_{rank}": partial(sized["svd"], rank) for rank in sorted({*SVD_RANKS, width})},
        **{name: partial(sized[name], width) for name in ("random_projection", "sketch")},
        "mean_pooling": lambda: mean_pooling(events, vectors),
        "mean_pooling_rf": lambda: mean_pooling_rf(events, vectors, cut_ms),
    }


def sized_features(events: Events, bag: Any, vectors: Float32, width_max: int, seed: int) -> dict[str, Sized]:
    """How to make the baselines that come in any size, by name, from a bag and vectors of the items."""
    svd = truncated_svd(bag, max(*SVD_RANKS, width_max), seed)
    return {
        "svd": lambda width: svd[:, :width],
        "random_projection": lambda width: random_projection(bag, width, seed),
        "sketch": lambda width: sketch(events, vectors, width, seed),
    }


def raw_bag(events: Events, column: Int64, n_columns: int) -> Any:
    """The raw bag, tf-idf weighted, every row of length 1: sparse float32[n_users, n_columns]."""
    counts = user_item_matrix(events.user, column, events.weight, (len(events.users), n_columns))
    frequency = np.bincount(counts.indices, minlength=n_columns).astype(np.int64)
    return tf_idf(counts, inverse_frequency(len(events.users), frequency))


def truncated_svd(bag: Any, rank: int, seed: int) -> Float32:
    """The bag's coordinates on its strongest directions, strongest first: float32[n_users, at most rank]."""
    u, s, _ = randomized_svd(bag, min(rank, *bag.shape), n_iter=SVD_ITERATIONS, random_state=seed)
    return np.asarray(u * s, np.float32)


def random_projection(bag: Any, width: int, seed: int) -> Float32:
    """The bag under a Gaussian matrix, float32[n_users, width]."""
    matrix = np.random.default_rng(seed).standard_normal((bag.shape[1], width), np.float32)
    return np.asarray(bag @ matrix / np.sqrt(width), np.float32)


def item_vectors(events: Events, seed: int, d_item: int = 64) -> Float32:
    """The vectors our item embedding learns, which pool better than those of an SVD; zeros for items without events."""
    there = np.unique(events.item)
    vectors = np.zeros((len(events.items), d_item), np.float32)
    vectors[there] = embed_items(events.compact(), d_item, seed).vectors
    return vectors


def mean_pooling(events: Events, vectors: Float32) -> Float32:
    """The mean vector of everything a user had, float32[n_users, d_item]."""
    counts = _counts(events)
    total = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    return np.asarray((counts @ vectors) / total, np.float32)


def mean_pooling_rf(events: Events, vectors: Float32, cut_ms: int) -> Float32:
    """The same beside recency and frequency."""
    return np.concatenate([mean_pooling(events, vectors), recency_frequency(events, cut_ms)], axis=1)


def sketch(events: Events, vectors: Float32, width: int, seed: int) -> Float32:
    """How often a user was in every bucket of several random partitions of the item space, float32[n_users, <= width].

    A partition cuts the item space with hyperplanes through its median, as EMDE's density-dependent hashing does; each
    of its histograms has length 1. **Source**: the idea of EMDE (arXiv 2006.01894) in our own code.
    """
    rng = np.random.default_rng(seed)
    n_planes = max(1, int(np.log2(width / PARTITIONS)))
    counts, there = _counts(events), np.unique(events.item)
    histograms = []
    for _ in range(PARTITIONS):
        height = vectors @ rng.standard_normal((vectors.shape[1], n_planes), np.float32)
        bucket = (height > np.median(height[there], axis=0)) @ (1 << np.arange(n_planes))
        histogram = counts @ np.eye(1 << n_planes, dtype=np.float32)[bucket]
        histograms.append(histogram / np.maximum(np.linalg.norm(histogram, axis=1, keepdims=True), 1e-12))
    return np.concatenate(histograms, axis=1).astype(np.float32)


def recency_frequency(events: Events, cut_ms: int) -> Float32:
    """Log counts of events and of active days in each of the last weeks, age of the first and last event, totals."""
    n_users = len(events.users)
    age = (cut_ms - 1 - events.ts_ms) // MS_PER_DAY
    week = np.minimum(age // 7, WEEKS - 1)
    volume = np.zeros((n_users, WEEKS), np.float64)
    np.add.at(volume, (events.user, week), events.weight)
    active = np.unique(np.stack([events.user, day_of(events.ts_ms), week]), axis=1)
    days = np.zeros((n_users, WEEKS), np.float64)
    np.add.at(days, (active[0], active[2]), 1)
    last, first = np.full(n_users, age.max(initial=0) + 1), np.zeros(n_users, np.int64)
    np.minimum.at(last, events.user, age)
    np.maximum.at(first, events.user, age)
    others = [last, np.log1p(last), first, np.log1p(days.sum(1))]
    return np.concatenate([np.log1p(volume), np.log1p(days), np.stack(others, axis=1)], axis=1).astype(np.float32)


def _counts(events: Events) -> Any:
    return user_item_matrix(events.user, events.item, events.weight, (len(events.users), len(events.items)))
