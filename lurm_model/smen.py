"""SMEN: multi-anchor module, time aggregation and multi-scale aggregation in one network.

The first anchors carry the plain sum over the life, so that nothing the bags say can be forgotten; the last ones
carry the recurrent state. The output is not normalised: its length says how much the user did (our decision).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lurm_model.anchors import Anchors
from lurm_model.collate import Batch, ScaleBatch
from lurm_model.config import SmenConfig
from lurm_model.scales import MultiScale
from lurm_model.time_aggregation import TimeAggregation


@dataclass(frozen=True, slots=True)
class Table:
    """What every interest adds to every anchor, split by the anchors' kind.

    **Shapes**: sums float32[u, n_sums * H], recurrent float32[u, n_recurrent * H]; row i belongs to index i of a batch.
    """

    sums: Tensor
    recurrent: Tensor


class Smen(nn.Module):
    """The network. **Shapes**: a `Batch` of n users -> float32[n, M, H]. **Source**: paper; its form our decision."""

    def __init__(self, config: SmenConfig) -> None:
        super().__init__()
        self.config = config
        self.anchors = Anchors(config.n_interests, config.n_anchors, config.d_anchor, config.tau)
        self.time = nn.ModuleDict({s: TimeAggregation(config.n_recurrent, config.d_anchor) for s in config.scales})
        self.scales = MultiScale(len(config.scales), config.n_recurrent, config.d_anchor)

    def table(self, interests: Tensor | None = None) -> Table:
        """The constants of these interests, or of all: compute once per model, use for every batch."""
        table = self.anchors.table(interests)
        n_sums = self.config.n_sums
        return Table(table[:, :n_sums].flatten(1).contiguous(), table[:, n_sums:].flatten(1).contiguous())

    def forward(self, batch: Batch, table: Table) -> Tensor:
        """The M vectors of every user."""
        life = self._life(batch.scales[self.config.life_scale], table)
        return torch.cat([life, self._recurrent(batch, table)], dim=1)

    def _life(self, batch: ScaleBatch, table: Table) -> Tensor:
        return self.life(bag_values(batch, batch.life_offsets, table.sums), batch.life_norm_sq)

    def life(self, total: Tensor, norm_sq: Tensor) -> Tensor:
        """The additive path: the sum of V over the root of the summed squared norms, divided once at the end.

        **Shapes**: total float32[n, n_sums * H], norm_sq float32[n] -> float32[n, n_sums, H].
        """
        norm = norm_sq.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        return (total / norm[:, None]).view(-1, self.config.n_sums, self.config.d_anchor)

    def _recurrent(self, batch: Batch, table: Table) -> Tensor:
        states, present = [], []
        for name in self.config.scales:
            scale = batch.scales[name]
            values = bag_values(scale, scale.offsets, table.recurrent)
            values = values.view(-1, self.config.n_recurrent, self.config.d_anchor)
            states.append(self.time[name](values, scale, batch.n_users))
            present.append(torch.bincount(scale.users, minlength=batch.n_users) > 0)
        fused: Tensor = self.scales(torch.stack(states), torch.stack(present))
        return fused


class WeightedPairs(Protocol):
    """The pairs of many bags. **Shapes**: indices int64[nnz] (rows of a table), weights float32[nnz]."""

    @property
    def indices(self) -> Tensor: ...  # noqa: D102
    @property
    def weights(self) -> Tensor: ...  # noqa: D102


def bag_values(pairs: WeightedPairs, offsets: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of table rows, a sparse-dense product. **Shapes**: offsets int64[b + 1] -> float32[b, width]."""
    return embedding_bag(
        pairs.indices, table, offsets, mode="sum", per_sample_weights=pairs.weights, include_last_offset=True
    )
