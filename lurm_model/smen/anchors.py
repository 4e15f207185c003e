"""The multi-anchor module: every interest is shared out softly among the anchors.

``alpha[d, m] = softmax_m(E[d] . A[m] / tau)``; what interest d adds to anchor m is ``T[d, m] = alpha[d, m] E[d] P[m]``.
T depends on the model only, so it is computed once per bundle and the value of a bag is a sparse-dense product.
"""

import torch
from torch import Tensor, nn


class Anchors(nn.Module):
    """Interest vectors E [n_interests, H], anchors A [n_anchors, H], a projection P [n_anchors, H, H] of each.

    **Source**: the module and its purpose, almost lossless dimensionality reduction, are the paper's; the form is our
    decision. E starts from the codebook's centroids, P from the identity; after training, P of anchors that carry sums
    also levels them (`readout.levelling`).
    """

    def __init__(self, n_interests: int, n_anchors: int, d_anchor: int, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.interests = nn.Parameter(torch.zeros(n_interests, d_anchor))
        self.anchors = nn.Parameter(torch.randn(n_anchors, d_anchor))
        self.projections = nn.Parameter(torch.eye(d_anchor).repeat(n_anchors, 1, 1))

    def table(self, interests: Tensor | None = None) -> Tensor:
        """T for these interests, or for all of them. **Shapes**: int64[u] -> float32[u, n_anchors, H]."""
        vectors = self.interests if interests is None else self.interests[interests]
        alpha = torch.softmax(vectors @ self.anchors.T / self.tau, dim=1)
        return alpha[:, :, None] * torch.einsum("uh,mhk->umk", vectors, self.projections)
