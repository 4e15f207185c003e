"""The light classifier on frozen features: logistic regression, the same for every model, all questions at once.

Every column is standardised (sparse rows stay as they are); the strength of L2 is chosen by cross-validation among the
users trained on, never on those tested on. Nesterov's method on a majorising quadratic: deterministic, and a hundred
times faster than a solver per question.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from state.periods import Int64

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]

TEST_SHARE = 0.3
FOLDS = 5
# With fewer users nobody would be left to choose L2 on.
USERS_MIN = 6
# L2 per user of the mean loss: for standardised columns, and for sparse rows of length 1.
DENSE_L2 = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SPARSE_L2 = (3e-5, 3e-4, 3e-3)
ITERATIONS = 60
SPARSE_ITERATIONS = 80


def probe_aucs(features: Any, labels: Bool, owner: Int64, seed: int) -> Float64:
    """AUC of every question on a held-out 30 % of the users; NaN where a class is missing, or users are.

    Questions of one owner (a task) share their L2. **Shapes**: features float[n, f], dense or scipy sparse, labels
    bool[n, q], owner int64[q] from 0 -> float64[q]. **Source**: our decision.
    """
    if len(labels) < USERS_MIN:
        return np.full(len(owner), np.nan)
    test, rest = np.split(np.random.default_rng(seed).permutation(len(labels)), [int(len(labels) * TEST_SHARE)])
    grid = np.array(SPARSE_L2 if sp.issparse(features) else DENSE_L2)
    folds = np.array_split(rest, min(FOLDS, len(rest)))
    found = [_aucs_by_l2(features, labels, (np.setdiff1d(rest, fold), fold), grid) for fold in folds]
    # A rare answer may be in no user of a fold.
    found = np.ma.masked_invalid(found).mean(axis=0).filled(np.nan)
    chosen = grid[[_best(found[owner == task]) for task in range(int(owner.max()) + 1)]]
    return _aucs(labels[test], _fit_and_score(features, (rest, test), labels[rest], chosen[owner]))


def probe_auc(features: Any, labels: Bool, seed: int) -> float:
    """`probe_aucs` of one question. **Shapes**: labels bool[n]."""
    return float(probe_aucs(features, labels[:, None], np.zeros(1, np.int64), seed)[0])


def fit(rows: "DenseRows | SparseRows", labels: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and intercepts that minimise mean log loss + l2 / 2 * |weights|^2, question by question.

    **Shapes**: labels float32[n, q], l2 float32[q] -> float32[f, q], float32[q].
    """
    share = labels.mean(dim=0).clamp(1e-6, 1 - 1e-6)
    weights, intercept = torch.zeros(rows.width, labels.shape[1]), torch.logit(share)
    step = 1 / (rows.curvature[:, None] / 4 + l2)
    before, momentum = (weights, intercept), 1.0
    for _ in range(rows.iterations):
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        inertia, momentum = (momentum - 1) / grown, grown
        ahead, ahead_intercept = (
            now + inertia * (now - old) for now, old in zip((weights, intercept), before, strict=True)
        )
        residual = (torch.sigmoid(rows.times(ahead) + ahead_intercept) - labels) / len(labels)
        before = weights, intercept
        weights = ahead - step * (rows.transposed_times(residual) + l2 * ahead)
        intercept = ahead_intercept - rows.intercept_step * residual.sum(dim=0)
    return weights, intercept


class DenseRows:
    """Standardised rows, turned to their principal axes: there the curvature is diagonal, and L2 stays what it is."""

    iterations = ITERATIONS
    intercept_step = 4.0

    def __init__(self, rows: NDArray[np.float32]) -> None:
        matrix: Tensor = torch.from_numpy(rows)
        # In float32 it fails where hundreds of columns are constant or alike.
        curvature, axes = torch.linalg.eigh((matrix.T @ matrix / len(matrix)).double())
        self.curvature, self.axes, self.width = curvature.clamp_min(0).float(), axes.float(), matrix.shape[1]
        self._matrix: Tensor = matrix @ self.axes

    def times(self, weights: Tensor) -> Tensor:
        """**Shapes**: [f, q] -> [n, q]."""
        return self._matrix @ weights

    def transposed_times(self, residual: Tensor) -> Tensor:
        """**Shapes**: [n, q] -> [f, q]."""
        return self._matrix.T @ residual

    def score(self, rows: NDArray[np.float32], weights: Tensor) -> Tensor:
        """Other rows under these weights, without the intercept."""
        scores: Tensor = torch.from_numpy(rows) @ (self.axes @ weights)
        return scores


class SparseRows:
    """Sparse rows as they are; a column's curvature is bounded by the sum over its entries of their rows' sums."""

    iterations = SPARSE_ITERATIONS

    def __init__(self, rows: sp.csr_matrix) -> None:
        self._matrix, self._transposed, self.width = rows, rows.T.tocsr(), rows.shape[1]
        sizes = abs(rows)
        # Half for the weights, half for the intercept: together they majorise.
        self.intercept_step = 2.0
        self.curvature = torch.from_numpy(
            np.asarray(2 * (sizes.T @ np.asarray(sizes.sum(axis=1))).ravel() / rows.shape[0])
        )

    def times(self, weights: Tensor) -> Tensor:
        """**Shapes**: [f, q] -> [n, q]."""
        return torch.from_numpy(self._matrix @ weights.numpy())

    def transposed_times(self, residual: Tensor) -> Tensor:
        """**Shapes**: [n, q] -> [f, q]."""
        return torch.from_numpy(self._transposed @ residual.numpy())

    def score(self, rows: sp.csr_matrix, weights: Tensor) -> Tensor:
        """Other rows under these weights, without the intercept."""
        return torch.from_numpy(rows @ weights.numpy())


def _aucs_by_l2(features: Any, labels: Bool, parts: tuple[Int64, Int64], grid: Float64) -> Float64:
    """AUC on the second part of what the first one trained, float64[q, strengths of L2]."""
    train, tried = (np.repeat(labels[part], len(grid), axis=1) for part in parts)
    scores = _fit_and_score(features, parts, train, np.tile(grid, labels.shape[1]))
    return _aucs(tried, scores).reshape(-1, len(grid))


def _fit_and_score(features: Any, parts: tuple[Int64, Int64], labels: Bool, l2: Float64) -> Float64:
    """Fit on the first part, score the second: float[users of the second, q]."""
    train, test = parts
    rows: DenseRows | SparseRows
    if sp.issparse(features):
        seen, other = features[train].astype(np.float32), features[test].astype(np.float32)
        rows = SparseRows(seen)
    else:
        scaler = StandardScaler().fit(features[train])
        seen, other = (scaler.transform(features[part]).astype(np.float32) for part in parts)
        rows = DenseRows(seen)
    weights, _ = fit(rows, torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(l2.astype(np.float32)))
    return rows.score(other, weights).numpy()


def _best(aucs: Float64) -> int:
    """The column with the best mean; the first if no question can be asked."""
    known = aucs[~np.isnan(aucs).any(axis=1)]
    return int(known.mean(axis=0).argmax()) if len(known) else 0


def _aucs(labels: Bool, scores: Float64) -> Float64:
    return np.array([_auc(*column) for column in zip(labels.T, scores.T, strict=True)])


def _auc(labels: Bool, scores: Float64) -> float:
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")
