"""What SMEN is measured against: features of the same users from the same events, as one would build them by hand.

Source: our decision; the honest one to beat is mean pooling beside recency and frequency.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

from lurm_model.events import Events
from lurm_model.items import svd_item_vectors, tf_idf, user_item_matrix
from lurm_model.weighting import Float32, inverse_frequency
from state.periods import MS_PER_DAY, Int64, day_of

WEEKS = 14


def baseline_features(events: Events, interest: Int64, n_interests: int, cut_ms: int, seed: int) -> Mapping[str, Any]:
    """Features by the baseline's name, one row per user of ``events``, dense or scipy sparse.

    **Shapes**: interest int64[n_items]. **Units**: cut_ms is the Unix time in milliseconds the features look back from.
    """
    items = raw_bag(events, events.item, len(events.items))
    mean = mean_pooling(events, seed)
    return {
        "bag": raw_bag(events, interest[events.item], n_interests),
        "item_bag": items,
        "svd_64": truncated_svd(items, 64, seed),
        "svd_256": truncated_svd(items, 256, seed),
        "mean_pooling": mean,
        "mean_pooling_rf": np.concatenate([mean, recency_frequency(events, cut_ms)], axis=1),
    }


def raw_bag(events: Events, column: Int64, n_columns: int) -> Any:
    """The raw bag, tf-idf weighted, every row of length 1: sparse float32[n_users, n_columns]."""
    counts = user_item_matrix(events.user, column, events.weight, (len(events.users), n_columns))
    frequency = np.bincount(counts.indices, minlength=n_columns).astype(np.int64)
    return tf_idf(counts, inverse_frequency(len(events.users), frequency))


def truncated_svd(bag: Any, rank: int, seed: int) -> Float32:
    """The bag's coordinates on its strongest directions, float32[n_users, at most rank]."""
    u, s, _ = randomized_svd(bag, min(rank, min(bag.shape) - 1), n_iter=4, random_state=seed)
    return np.asarray(u * s, np.float32)


def mean_pooling(events: Events, seed: int, d_item: int = 64) -> Float32:
    """The mean vector of everything a user had, float32[n_users, d_item]."""
    vectors, _ = svd_item_vectors(events, d_item, seed)
    shape = (len(events.users), len(events.items))
    counts = user_item_matrix(events.user, events.item, events.weight, shape)
    total = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    return np.asarray((counts @ vectors) / total, np.float32)


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
    last, first = np.full(n_users, age.max() + 1), np.zeros(n_users, np.int64)
    np.minimum.at(last, events.user, age)
    np.maximum.at(first, events.user, age)
    others = [last, np.log1p(last), first, np.log1p(days.sum(1))]
    return np.concatenate([np.log1p(volume), np.log1p(days), np.stack(others, axis=1)], axis=1).astype(np.float32)
