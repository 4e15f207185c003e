"""The time aggregation module: a causal recurrence per recurrent anchor over a scale's non-empty periods.

Causal on purpose: the state after the last closed period is all that the past has to say, so it can be cached.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lurm_model.collate import N_FEATURES, ScaleBatch


class TimeAggregation(nn.Module):
    """One GRU per recurrent anchor over [V / |w|, features].

    **Shapes**: values float32[k, R, H] (the bag's value per period and anchor) -> states float32[n_users, R, H], zero
    for users without periods. **Source**: the module is the paper's, the recurrence our decision.
    """

    def __init__(self, n_recurrent: int, d_anchor: int) -> None:
        super().__init__()
        self.d_anchor = d_anchor
        self.cells = nn.ModuleList(nn.GRU(d_anchor + N_FEATURES, d_anchor) for _ in range(n_recurrent))

    def forward(self, values: Tensor, batch: ScaleBatch, n_users: int) -> Tensor:
        """The states after every user's last period."""
        norm = batch.norm_sq.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        values = values / norm[:, None, None]
        states = values.new_zeros(n_users, len(self.cells), self.d_anchor)
        if len(batch.packed) == 0:
            return states
        last = []
        for r, cell in enumerate(self.cells):
            inputs = torch.cat([values[:, r], batch.features], dim=1)[batch.packed]
            _, hidden = cell(PackedSequence(inputs, batch.batch_sizes))
            last.append(hidden[0].to(states.dtype))
        return states.index_copy(0, batch.users, torch.stack(last, dim=1))
