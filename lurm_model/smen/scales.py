"""The multi-scale aggregation module: a gated sum of the scales' last states, anchor by anchor."""

import torch
from torch import Tensor, nn


class MultiScale(nn.Module):
    """Softmax gates over the scales, from each scale's own state.

    Anchor r starts out listening to scale ``r mod S``. **Shapes**: states float32[S, n, R, H], present bool[S, n] (who
    has periods in the scale) -> float32[n, R, H]. **Source**: the module is the paper's, the gate our decision.
    """

    def __init__(self, n_scales: int, n_recurrent: int, d_anchor: int) -> None:
        super().__init__()
        preferred = torch.arange(n_recurrent) % n_scales
        self.query = nn.Parameter(torch.zeros(n_scales, n_recurrent, d_anchor))
        self.bias = nn.Parameter(2.0 * (torch.arange(n_scales)[:, None] == preferred).float())

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        """The fused states; zero for users who are in no scale."""
        scores = (states * self.query[:, None]).sum(-1) + self.bias[:, None]
        scores = scores.masked_fill(~present[:, :, None], torch.finfo(scores.dtype).min)
        return (torch.softmax(scores, dim=0)[..., None] * states).sum(0)
