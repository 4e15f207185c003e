"""The readout: from what the anchors carry to a user's vectors, in which volume and taste weigh the same.

A few tastes that all have spread most and hide the many that few have: so the sums are levelled, whitened half-way.

A linear model on frozen vectors shrinks what few numbers say, and most scale every number first. What the recurrences
know of a life, a few directions of many numbers, would be shrunk beside hundreds of numbers of taste. So it becomes as
few numbers as it needs, is given the spread of all sums together, and stands in every vector.
"""

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from lurm_model.smen.config import SmenConfig

# Numbers that spread less than this, beside the size that the largest have, say nothing; they are not blown up.
SPREAD_MIN = 1e-6
# Few users tell little of how numbers spread: as much is put down to chance as if this many per number knew nothing.
CHANCE_USERS = 30


class Readout(nn.Module):
    """R recurrent states become C vectors' worth; these and the sums are mixed by an orthogonal matrix.

    Mixing loses nothing and keeps lengths. Nothing here learns by gradients: `fit` sets it once, after training.
    **Shapes**: what the anchors carry, float32[n, n_anchors, H] -> float32[n, M, H]. **Source**: our decision.
    """

    condense: Tensor
    mixing: Tensor

    def __init__(self, config: SmenConfig) -> None:
        super().__init__()
        self.config = config
        n_states, n_condensed = config.n_recurrent * config.d_anchor, config.n_condensed * config.d_anchor
        in_turns = torch.eye(n_condensed).repeat(config.n_recurrent, 1)[:n_states]
        self.register_buffer("condense", in_turns)
        self.register_buffer("mixing", _cosines(config.n_vectors).T.float(), persistent=False)

    def forward(self, carried: Tensor) -> Tensor:
        """The M vectors; zeros for who carries zeros."""
        sums, states = carried.tensor_split([self.config.n_sums], dim=1)
        condensed = (states.flatten(1) @ self.condense).view(-1, self.config.n_condensed, self.config.d_anchor)
        return self.mixing @ torch.cat([condensed, sums], dim=1)

    @torch.no_grad()
    def fit(self, states: Tensor) -> None:
        """Keep the strongest directions of these users' states, in all with as much spread as the levelled sums.

        These are the principal axes of the standardised states, where what many units say weighs more than what one
        does. Of few users the weak ones are mostly chance and are held back, by Wiener's gain; all are turned so that
        every number has about the same of each. **Shapes**: float32[n, R, H].
        """
        config, n_kept = self.config, self.condense.shape[1]
        standard, spread = _standardised(states.flatten(1).double())
        energy, axes = _principal_axes(standard)
        energy, axes = energy[:n_kept].clamp_min(0), axes[:, :n_kept]
        believed = energy / (energy + _chance(standard))
        of_sums = energy.new_tensor(config.n_sums * config.d_anchor)
        strongest = axes * believed * _gain(energy.sum(), of_sums) / spread[:, None]
        self.condense.copy_(strongest @ _cosines(n_kept))


def levelling(sums: Tensor) -> Tensor:
    """What levels every anchor's sums of these users: variances become their roots, and 1 per number on average.

    It is whitening with the exponent -1/4 for -1/2 and a ridge, in the sums' own scale, where what spreads little says
    little; the axes are turned so that every number has about the same of each, and no scaling of columns undoes it.
    It loses nothing, and since it is linear it can be part of what an interest adds. **Shapes**: float32[n, n_sums, H]
    -> float32[n_sums, H, H], for ``sums @ matrix``. **Source**: of word vectors by SVD, Levy, Goldberg and Dagan 2015;
    here our decision.
    """
    centred, width = (sums - sums.mean(dim=0)).double(), sums.shape[2]
    variance, size = centred.square().mean(dim=(0, 2)), sums.double().square().mean(dim=(0, 2))
    spread = torch.where(variance > SPREAD_MIN**2 * size.max(), variance, 1.0).sqrt()
    standard = (centred / spread[:, None]).transpose(0, 1)
    energy, axes = _principal_axes(standard)
    root = (energy.clamp_min(0) + _chance(standard)) ** -0.25
    root = root * _gain((energy * root**2).sum(dim=1), energy.sum(dim=1))[:, None]
    return (axes * root[:, None, :] @ _cosines(width)).div(spread[:, None, None]).float()


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Variances along the principal axes, largest first, and the axes: [..., n, w] -> [..., w], [..., w, w]."""
    energy, axes = torch.linalg.eigh(centred.mT @ centred / centred.shape[-2])
    return energy.flip(-1), axes.flip(-1)


def _chance(standard: Tensor) -> float:
    """The variance that is put down to chance in every direction of these [..., n, w], which have 1 on average."""
    n_users, width = standard.shape[-2:]
    return CHANCE_USERS * width / n_users


def _standardised(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The columns with mean 0 and spread 1, and what their spread was; 1 for those that say nothing."""
    spread, size = numbers.std(dim=0, correction=0), numbers.square().mean(dim=0).sqrt()
    spread = torch.where(spread > SPREAD_MIN * size.max(), spread, 1.0)
    standard: Tensor = (numbers - numbers.mean(dim=0)) / spread
    return standard, spread


def _gain(energy: Tensor, wanted: Tensor) -> Tensor:
    """What gives numbers of this energy the wanted one; 1 where they have none."""
    return torch.where(energy > SPREAD_MIN**2 * wanted, wanted / energy, 1.0) ** 0.5


def _cosines(n: int) -> Tensor:
    """An orthogonal matrix whose first row is constant, that of the discrete cosine transform: float64[n, n]."""
    return torch.from_numpy(dct(np.eye(n), axis=0, norm="ortho"))
