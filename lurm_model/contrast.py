"""The contrastive learning module: two views of one life should meet, and each should predict the other's items.

Contrast alone teaches the network to ignore volume and common items; the prediction keeps them (our decision).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from state.bags import Bags
from state.history import Rows

TEMPERATURE = 0.2


@dataclass(frozen=True, slots=True)
class Targets:
    """What the users of a batch had. **Shapes**: user int64[p], candidate int64[p], share float32[p], 1 per user."""

    user: Tensor
    candidate: Tensor
    share: Tensor


class ItemPrediction(nn.Module):
    """Predicts which interests the other view holds; needed for training only."""

    def __init__(self, width: int, d_anchor: int, log_popularity: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(width, d_anchor)
        self.bias = nn.Parameter(log_popularity.clone())

    def forward(self, flat: Tensor, vectors: Tensor, candidates: Tensor, targets: Targets) -> Tensor:
        """Mean cross-entropy. **Shapes**: flat [n, M * H], vectors [c, H] of the candidates int64[c] -> scalar."""
        logits = torch.log_softmax(linear(self.head(flat), vectors, self.bias[candidates]), dim=1)
        return -(logits[targets.user, targets.candidate] * targets.share).sum() / len(flat)


def info_nce(a: Tensor, b: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Symmetric InfoNCE: row i of both are one user's views. **Shapes**: [n, M * H] twice -> scalar."""
    logits = normalize(a, dim=1) @ normalize(b, dim=1).T / temperature
    own = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def split_views(rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Two views: every single behaviour goes to one of them by the toss of a coin, so they share none."""
    first = rng.binomial(rows.bags.counts, 0.5).astype(np.uint32)
    return _with_counts(rows, first), _with_counts(rows, rows.bags.counts - first)


def _with_counts(rows: Rows, counts: NDArray[np.uint32]) -> Rows:
    """The same rows with other counts; pairs and rows left with nothing disappear."""
    kept = counts > 0
    ends = np.concatenate([[0], np.cumsum(kept)])[rows.bags.offsets]
    bags = Bags(ends.astype(np.int64), rows.bags.interests[kept], counts[kept])
    left = np.flatnonzero(np.diff(ends))
    columns = {name: getattr(rows, name)[left] for name in ("user", "scale", "period", "seq", "event_time_ms")}
    return replace(rows, **columns, bags=bags.take(left))
