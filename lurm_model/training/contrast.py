"""The contrastive learning module: two views of one life should meet, and each should predict the other's items.

Contrast alone teaches the network to ignore volume and common items; the prediction keeps them. A third view is a life
up to a day: it should say what the user does after it, which is what teaches the recurrence (our decisions).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, mse_loss, normalize

TEMPERATURE = 0.2


@dataclass(frozen=True, slots=True)
class Targets:
    """What the users of a batch had. **Shapes**: user int64[p], candidate int64[p], share float32[p], 1 per user."""

    user: Tensor
    candidate: Tensor
    share: Tensor


class ItemPrediction(nn.Module):
    """Predicts which interests another view holds; needed for training only."""

    def __init__(self, width: int, d_anchor: int, log_popularity: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(width, d_anchor)
        self.bias = nn.Parameter(log_popularity.clone())

    def forward(self, flat: Tensor, vectors: Tensor, candidates: Tensor, targets: Targets) -> Tensor:
        """Mean cross-entropy of the users who had anything.

        **Shapes**: flat [n, M * H], vectors [c, H] of the candidates int64[c] -> scalar, 0 if nobody had.
        """
        logits = linear(self.head(flat), vectors, self.bias[candidates]).to(self.bias.dtype)
        logits = torch.log_softmax(logits, dim=1)
        total = -(logits[targets.user, targets.candidate] * targets.share).sum()
        return total / targets.share.sum().clamp_min(1)


class VolumePrediction(nn.Module):
    """Predicts from a life up to a day who comes back after it and how much; needed for training only.

    Only differences between the users of a batch count, so it does not matter how long the time after the day is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 2)

    def forward(self, flat: Tensor, volume: Tensor) -> Tensor:
        """**Shapes**: flat [n, M * H], volume float32[n], 0 for whoever stays away -> scalar."""
        score = self.head(flat).to(self.head.weight.dtype)
        score = score - score.mean(dim=0)
        back, amount = (volume > 0).to(score.dtype), torch.log1p(volume.to(score.dtype))
        share = torch.logit(back.mean().clamp(0.02, 0.98))
        amount = (amount - amount.mean()) / amount.std().clamp_min(1e-3)
        loss: Tensor = binary_cross_entropy_with_logits(score[:, 0] + share, back) + mse_loss(score[:, 1], amount) / 2
        return loss


def info_nce(a: Tensor, b: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Symmetric InfoNCE: row i of both are one user's views. **Shapes**: [n, M * H] twice -> scalar."""
    logits = normalize(a, dim=1) @ normalize(b, dim=1).T / temperature
    own = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


@torch.no_grad()
def indicators(a: Tensor, b: Tensor) -> dict[str, float]:
    """How a contrast stands: alignment of a user's views (0 is best), uniformity over users (lower is better), rank.

    The rank is the effective one, the entropy of the vectors' spectrum: it falls to 1 when they collapse.
    **Shapes**: [n, M * H] twice, n > 1. **Source**: alignment and uniformity after Wang and Isola (arXiv 2005.10242).
    """
    a, b = normalize(a.float(), dim=1), normalize(b.float(), dim=1)
    uniformity = torch.pdist(a).square().mul(-2).exp().mean().log()
    spread = torch.linalg.svdvals(a - a.mean(dim=0)).square()
    share = (spread / spread.sum().clamp_min(1e-12)).clamp_min(1e-12)
    return {
        "alignment": float((a - b).square().sum(dim=1).mean()),
        "uniformity": float(uniformity),
        "rank": float((-share * share.log()).sum().exp()),
    }
