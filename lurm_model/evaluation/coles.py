"""CoLES, the contrastive baseline: a recurrent network over single events; slices of one user's sequence attract.

Source: the idea of CoLES (arXiv 2002.08232) in our own code, small enough for two CPU cores; not its authors' library.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lurm_model.events import Events
from lurm_model.interests.weighting import Float32
from lurm_model.progress import Progress, silent
from lurm_model.training.contrast import info_nce
from state.periods import MS_PER_DAY, Int64

WIDTH = 128
# Two passes over the users within these bounds.
STEPS = (30, 150)
BATCH_USERS = 128
SLICE_EVENTS = (5, 30)
EVENTS_MAX = 128
LEARNING_RATE = 2e-3


class Coles(nn.Module):
    """A GRU over (interest vector, log days since the event before). **Shapes**: start float32[n_interests, d]."""

    def __init__(self, start: Float32, width: int = WIDTH) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.from_numpy(start).clone())
        self.cell = nn.GRU(start.shape[1] + 1, width)

    def forward(self, interests: list[Tensor], gaps: list[Tensor]) -> Tensor:
        """The state after every sequence's last event. **Shapes**: n times int64[e], float32[e] -> [n, width]."""
        inputs = [torch.cat([self.vectors[i], g[:, None]], dim=1) for i, g in zip(interests, gaps, strict=True)]
        _, hidden = self.cell(pack_sequence(inputs, enforce_sorted=False))
        state: Tensor = hidden[0]
        return state


class _Sequences:
    """All users' events in order of time."""

    def __init__(self, events: Events, interest: Int64) -> None:
        order = np.argsort(events.user, kind="stable")
        user, days = events.user[order], events.ts_ms[order] / MS_PER_DAY
        self.ends = np.cumsum(np.bincount(user, minlength=len(events.users)))
        self.lengths = np.diff(self.ends, prepend=0)
        gap = np.diff(days, prepend=0)
        gap[np.diff(user, prepend=-1) != 0] = 0
        self._interest = torch.from_numpy(interest[events.item[order]])
        self._gap = torch.from_numpy(np.log1p(gap).astype(np.float32))

    def cut(self, stops: Int64, lengths: Int64) -> tuple[list[Tensor], list[Tensor]]:
        """The sequences that end before these places."""
        parts = [slice(stop - n, stop) for stop, n in zip(stops.tolist(), lengths.tolist(), strict=True)]
        return [self._interest[part] for part in parts], [self._gap[part] for part in parts]

    def slices(self, users: Int64, rng: np.random.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """A random slice of every user's sequence."""
        lengths = np.minimum(rng.integers(*SLICE_EVENTS, size=len(users), endpoint=True), self.lengths[users])
        return self.cut(self.ends[users] - rng.integers(self.lengths[users] - lengths, endpoint=True), lengths)


def coles_features(events: Events, interest: Int64, start: Float32, seed: int, progress: Progress = silent) -> Float32:
    """Train, then encode every user's last events: float32[n_users, WIDTH], zero for users without any."""
    rng = np.random.default_rng(seed)
    sequences = _Sequences(events, interest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Coles(start)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    able = np.flatnonzero(sequences.lengths >= 2)
    n_steps = int(np.clip(2 * len(able) // BATCH_USERS, *STEPS))
    for step in range(n_steps):
        users = rng.choice(able, min(BATCH_USERS, len(able)), replace=False)
        loss = info_nce(model(*sequences.slices(users, rng)), model(*sequences.slices(users, rng)))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        progress("CoLES", step + 1, n_steps)
    return _encode(model, sequences)


@torch.inference_mode()
def _encode(model: Coles, sequences: _Sequences) -> Float32:
    lengths = np.minimum(sequences.lengths, EVENTS_MAX)
    # Users of like length together: a batch takes as many steps as its longest.
    users = np.argsort(lengths, kind="stable")
    users = users[lengths[users] > 0]
    out = np.zeros((len(lengths), model.cell.hidden_size), np.float32)
    for batch in np.array_split(users, max(1, len(users) // 512)):
        out[batch] = model(*sequences.cut(sequences.ends[batch], lengths[batch])).numpy()
    return out
