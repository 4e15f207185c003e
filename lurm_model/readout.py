"""The readout: from what the anchors carry to a user's vectors, in which volume and taste weigh the same.

A linear model on frozen vectors shrinks what few numbers say, and most scale every number first. What the recurrences
know of a life, a few directions of many numbers, would be shrunk beside hundreds of numbers of taste. So it becomes as
few numbers as it needs, is given the spread of all sums together, and stands in every vector.
"""

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from lurm_model.config import SmenConfig

# Numbers with less spread than this, of the most there is, say nothing; they are not blown up.
SPREAD_MIN = 1e-6


class Readout(nn.Module):
    """R recurrent states become C vectors' worth; these and the scaled sums are mixed by an orthogonal matrix.

    Mixing loses nothing and keeps lengths. Nothing here learns by gradients: `fit` sets it once, after training.
    **Shapes**: what the anchors carry, float32[n, n_anchors, H] -> float32[n, M, H]. **Source**: our decision.
    """

    scale: Tensor
    condense: Tensor
    mixing: Tensor

    def __init__(self, config: SmenConfig) -> None:
        super().__init__()
        self.config = config
        n_states, n_condensed = config.n_recurrent * config.d_anchor, config.n_condensed * config.d_anchor
        in_turns = torch.eye(n_condensed).repeat(config.n_recurrent, 1)[:n_states]
        self.register_buffer("scale", torch.ones(config.n_sums, config.d_anchor))
        self.register_buffer("condense", in_turns)
        self.register_buffer("mixing", _cosines(config.n_vectors).T.float(), persistent=False)

    def forward(self, carried: Tensor) -> Tensor:
        """The M vectors; zeros for who carries zeros."""
        n_sums, n_condensed = self.config.n_sums, self.config.n_condensed
        condensed = (carried[:, n_sums:].flatten(1) @ self.condense).view(-1, n_condensed, self.config.d_anchor)
        return self.mixing @ torch.cat([condensed, carried[:, :n_sums] * self.scale], dim=1)

    @torch.no_grad()
    def fit(self, carried: Tensor) -> None:
        """Give every sum a spread of 1 over these users, and the states' strongest directions as much as all sums have.

        These are the principal axes of the standardised states, where what many units say weighs more than what one
        does; they are turned so that every number has about the same of each.
        """
        n_sums, n_kept = self.config.n_sums, self.condense.shape[1]
        sums, states = (part.flatten(1).double() for part in (carried[:, :n_sums], carried[:, n_sums:]))
        spread = _spread(states)
        standard = (states - states.mean(dim=0)) / spread
        energy, axes = torch.linalg.eigh(standard.T @ standard / len(standard))
        strongest = axes[:, -n_kept:].flip(1) / spread[:, None]
        gain = (sums.shape[1] / energy[-n_kept:].sum().clamp_min(SPREAD_MIN)) ** 0.5
        self.condense.copy_(gain * strongest @ _cosines(n_kept))
        self.scale.copy_((1 / _spread(sums)).view_as(self.scale))


def _spread(numbers: Tensor) -> Tensor:
    """Standard deviations of the columns; 1 for those that say nothing."""
    spread = numbers.std(dim=0, correction=0)
    return torch.where(spread > SPREAD_MIN * spread.max(), spread, 1.0)


def _cosines(n: int) -> Tensor:
    """An orthogonal matrix whose first row is constant, that of the discrete cosine transform: float64[n, n]."""
    return torch.from_numpy(dct(np.eye(n), axis=0, norm="ortho"))
