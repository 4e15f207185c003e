"""The time aggregation module: a causal recurrence per recurrent anchor over a scale's non-empty periods.

Causal on purpose: the state after the last closed period is all that the past has to say, so it can be cached.
Outside autocast on purpose: cuDNN's recurrences run in float16 there whatever type is asked for, and overflow.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lurm_model.smen.collate import N_FEATURES, ScaleBatch, Sequences

# Units start out remembering from one period to this many.
PERIODS_REMEMBERED = 10


class TimeAggregation(nn.Module):
    """One GRU per recurrent anchor over [V / |w|, features].

    **Shapes**: values float32[k, R, H] (the bag's value per period and anchor) -> states float32[n_users, R, H], zero
    for users without periods. **Source**: the module is the paper's, the recurrence our decision; it starts as in "Can
    recurrent neural networks warp time?" (arXiv 1804.11188).
    """

    def __init__(self, n_recurrent: int, d_anchor: int) -> None:
        super().__init__()
        self.d_anchor = d_anchor
        self.cells = nn.ModuleList(_cell(d_anchor) for _ in range(n_recurrent))

    def forward(self, values: Tensor, batch: ScaleBatch, n_users: int) -> Tensor:
        """The states after every user's last period."""
        states = values.new_zeros(n_users, len(self.cells), self.d_anchor)
        sequences = Sequences(batch.packed, batch.batch_sizes, batch.users)
        return self.run(self.inputs(values, batch.norm_sq, batch.features), sequences, states)

    def inputs(self, values: Tensor, norm_sq: Tensor, features: Tensor) -> Tensor:
        """What enters the recurrence, a function of each period alone: float32[k, R, H + N_FEATURES]."""
        norm = norm_sq.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        return torch.cat([values / norm[:, None, None], features[:, None].expand(-1, len(self.cells), -1)], dim=2)

    def run(self, inputs: Tensor, sequences: Sequences, states: Tensor) -> Tensor:
        """The states after the sequences, from those before, which stay for users without. **Shapes**: [n, R, H]."""
        if len(sequences.packed) == 0:
            return states
        before, last = states[sequences.users], []
        for r, cell in enumerate(self.cells):
            steps = PackedSequence(inputs[sequences.packed, r].to(states.dtype), sequences.batch_sizes)
            with torch.autocast(inputs.device.type, enabled=False):
                _, hidden = cell(steps, before[None, :, r].contiguous())
            last.append(hidden[0])
        return states.index_copy(0, sequences.users, torch.stack(last, dim=1))

    def step(self, inputs: Tensor, states: Tensor) -> Tensor:
        """The states after one period of every user. **Shapes**: inputs [n, R, H + N_FEATURES], float32[n, R, H]."""
        with torch.autocast(inputs.device.type, enabled=False):
            last = [
                cell(inputs[None, :, r].to(states.dtype).contiguous(), states[None, :, r].contiguous())[1][0]
                for r, cell in enumerate(self.cells)
            ]
        return torch.stack(last, dim=1)


def _cell(d_anchor: int) -> nn.GRU:
    cell = nn.GRU(d_anchor + N_FEATURES, d_anchor)
    weights, update = dict(cell.named_parameters()), slice(d_anchor, 2 * d_anchor)
    with torch.no_grad():
        weights["bias_ih_l0"][update].uniform_(1, PERIODS_REMEMBERED - 1).log_()
        weights["bias_hh_l0"][update].zero_()
    return cell
