"""Frozen embeddings under a light classifier, side by side with the baselines: same users, same splits, same probe."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from lurm_model.baselines import baseline_features
from lurm_model.bundle import Bundle
from lurm_model.encoder import Encoder
from lurm_model.events import Events, day_rows
from lurm_model.progress import Progress, silent
from lurm_model.tasks import Bool, Task, eligible
from lurm_model.weighting import Float32
from state.history import resolve
from state.periods import Int64

TEST_SHARE = 0.3
# Inverse strengths of L2 for standardised dense columns and for sparse rows of length 1; the best counts.
DENSE_C = (1e-4, 1e-3, 1e-2)
SPARSE_C = (0.1, 1.0, 10.0)
# The gradient of a rare label over a sparse row of length 1 is tiny from the start: a coarse tolerance stops there.
DENSE_TOLERANCE = 1e-4
SPARSE_TOLERANCE = 1e-6

Table = dict[str, dict[str, dict[str, float]]]


def probe_auc(features: Any, labels: Bool, seed: int) -> float:
    """AUC of a logistic regression on a held-out 30 %, the best of three L2 strengths; NaN if one class is missing.

    **Shapes**: features float[n, f], dense or scipy sparse, labels bool[n]. **Source**: our decision.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    test, rest = np.split(order, [int(len(order) * TEST_SHARE)])
    if len(np.unique(labels[test])) < 2 or len(np.unique(labels[rest])) < 2:
        return float("nan")
    train_x, test_x = _scaled(features, rest, test)
    sparse = sp.issparse(features)
    tolerance = SPARSE_TOLERANCE if sparse else DENSE_TOLERANCE
    models = [LogisticRegression(C=c, max_iter=1000, tol=tolerance) for c in (SPARSE_C if sparse else DENSE_C)]
    return max(_auc(model, (train_x, labels[rest]), (test_x, labels[test])) for model in models)


def encode_events(bundle: Bundle, events: Events, device: str = "auto") -> Float32:
    """The embeddings of all users from these events, float32[n_users, M, H]."""
    interest = item_interests(bundle, events)
    rows = day_rows(events.user, events.ts_ms, interest[events.item], events.weight)
    n_users = len(events.users)
    return Encoder(bundle, device).encode(resolve(rows, bundle.scales, n_users), n_users)


def item_interests(bundle: Bundle, events: Events) -> Int64:
    """Every item's interest, int64[n_items]: by the codebook, else from its attributes."""
    book = bundle.codebook
    pairs = zip(events.items, events.item_attributes, strict=True)
    known = ((book.interest_of.get(item), attributes) for item, attributes in pairs)
    return np.array([book.assign(attributes) if found is None else found for found, attributes in known], np.int64)


def evaluate(
    bundle: Bundle,
    events: Events,
    tasks: Mapping[str, Task],
    cut_ms: int,
    n_seeds: int = 3,
    progress: Progress = silent,
) -> Table:
    """Mean AUC and its spread over splits, by task and model; features see only what lies before the cut."""
    before = events.where(events.ts_ms < cut_ms)
    users = eligible(events, cut_ms)
    interest = item_interests(bundle, events)
    features = {"smen": encode_events(bundle, before).reshape(len(events.users), -1)}
    features |= baseline_features(before, interest, bundle.codebook.n_interests, cut_ms, seed=0)
    table: Table = {name: {} for name in tasks}
    for done, (model, matrix) in enumerate(features.items()):
        progress("probes", done, len(features))
        for name, task in tasks.items():
            table[name][model] = _probe_task(matrix, task, users, n_seeds)
    progress("probes", len(features), len(features))
    return table


def _probe_task(features: Any, task: Task, users: Int64, n_seeds: int) -> dict[str, float]:
    chosen = users[task.known[users]]
    aucs = [
        np.nanmean([probe_auc(features[chosen], labels, seed) for labels in task.labels[chosen].T])
        for seed in range(n_seeds)
    ]
    return {"auc": round(float(np.mean(aucs)), 4), "std": round(float(np.std(aucs)), 4)}


def _scaled(features: Any, train: Int64, test: Int64) -> tuple[Any, Any]:
    if sp.issparse(features):
        return features[train].astype(np.float64), features[test].astype(np.float64)
    scaler = StandardScaler().fit(features[train])
    return scaler.transform(features[train]), scaler.transform(features[test])


def _auc(model: LogisticRegression, train: tuple[Any, Bool], test: tuple[Any, Bool]) -> float:
    with warnings.catch_warnings():
        # In float32 the line search may end where rounding does: that is as far as it goes, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*train)
    return float(roc_auc_score(test[1], model.decision_function(test[0])))
