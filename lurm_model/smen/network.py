"""SMEN: multi-anchor module, time aggregation, multi-scale aggregation and readout in one network.

The first anchors carry the plain sum over the life, so that nothing the bags say can be forgotten; some carry sums that
fade, so that what was long ago stands between the two; the last ones carry the recurrent state. The readout makes the
user's vectors of these. They are not normalised: their length says how much the user did (our decision).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lurm_model.smen.anchors import Anchors
from lurm_model.smen.collate import Batch
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.readout import Readout, levelling
from lurm_model.smen.scales import MultiScale
from lurm_model.smen.time_aggregation import TimeAggregation


@dataclass(frozen=True, slots=True)
class Table:
    """What every interest adds to every anchor, split by the anchors' kind.

    **Shapes**: sums float32[u, anchors of the kind * H] for every kind of sum, recurrent float32[u, n_recurrent * H];
    row i belongs to index i of a batch.
    """

    sums: tuple[Tensor, ...]
    recurrent: Tensor


class Smen(nn.Module):
    """The network. **Shapes**: a `Batch` of n users -> float32[n, M, H]. **Source**: paper; its form our decision."""

    kind_of_sum: Tensor

    def __init__(self, config: SmenConfig) -> None:
        super().__init__()
        self.config = config
        self.anchors = Anchors(config.n_interests, config.n_anchors, config.d_anchor, config.tau)
        self.time = nn.ModuleDict({s: TimeAggregation(config.n_recurrent, config.d_anchor) for s in config.scales})
        self.scales = MultiScale(len(config.scales), config.n_recurrent, config.d_anchor)
        kinds = torch.cat([torch.full((n,), kind) for kind, n in enumerate(config.kinds_of_sums)])
        self.register_buffer("kind_of_sum", kinds, persistent=False)
        self.readout = Readout(config)

    def table(self, interests: Tensor | None = None) -> Table:
        """The constants of these interests, or of all: compute once per model, use for every batch."""
        parts = (*self.config.kinds_of_sums, self.config.n_recurrent)
        split = torch.split(self.anchors.table(interests), list(parts), dim=1)
        *sums, recurrent = (part.flatten(1).contiguous() for part in split)
        return Table(tuple(sums), recurrent)

    def forward(self, batch: Batch, table: Table) -> Tensor:
        """The M vectors of every user."""
        vectors: Tensor = self.readout(self.carried(batch, table))
        return vectors

    def carried(self, batch: Batch, table: Table) -> Tensor:
        """What every anchor carries, the sums first: float32[n, n_anchors, H]."""
        life, indices = batch.life, batch.scales[self.config.life_scale].indices
        sums = self.life(life_sums(indices, life.weights, life.offsets, table), life.norm)
        return torch.cat([sums, self._recurrent(batch, table)], dim=1)

    @torch.no_grad()
    def fit_readout(self, carried: Tensor) -> None:
        """Level the sums and set the readout by what the anchors carry of users; once, after training.

        ``carried`` must come from the network as it is. What levels the sums becomes part of their anchors'
        projections, so it costs nothing; a `Table` of before no longer holds.
        """
        sums, states = carried.tensor_split([self.config.n_sums], dim=1)
        of_sums = self.anchors.projections[: self.config.n_sums]
        of_sums.copy_(of_sums @ levelling(sums))
        self.readout.fit(states)

    def life(self, total: Tensor, norm: Tensor) -> Tensor:
        """The additive path: the sums of V over the roots of the summed squared norms, divided once at the end.

        **Shapes**: total float32[n, n_sums * H], norm float32[n, G] -> float32[n, n_sums, H].
        """
        norm = norm.clamp_min(torch.finfo(torch.float32).tiny)[:, self.kind_of_sum]
        return total.view(-1, self.config.n_sums, self.config.d_anchor) / norm[:, :, None]

    def _recurrent(self, batch: Batch, table: Table) -> Tensor:
        states, present = [], []
        for name in self.config.scales:
            scale = batch.scales[name]
            values = bag_values(scale.indices, scale.weights, scale.offsets, table.recurrent)
            values = values.view(-1, self.config.n_recurrent, self.config.d_anchor)
            states.append(self.time[name](values, scale, batch.n_users))
            present.append(torch.bincount(scale.users, minlength=batch.n_users) > 0)
        fused: Tensor = self.scales(torch.stack(states), torch.stack(present))
        return fused


def life_sums(indices: Tensor, weights: Iterable[Tensor], offsets: Tensor, table: Table) -> Tensor:
    """The sums of every kind, side by side. **Shapes**: weights float32[nnz] of each kind -> float32[b, n_sums * H]."""
    kinds = zip(weights, table.sums, strict=True)
    return torch.cat([bag_values(indices, weight, offsets, part) for weight, part in kinds], dim=1)


def bag_values(indices: Tensor, weights: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of table rows, a sparse-dense product.

    **Shapes**: indices int64[nnz] (rows of the table), weights float32[nnz], offsets int64[b + 1] -> float32[b, width].
    """
    return embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
