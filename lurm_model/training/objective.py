"""What SMEN is trained to do with the views of a batch, and the heads it needs for that and only for that."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lurm_model.interests.weighting import Float32
from lurm_model.smen.collate import Batch
from lurm_model.smen.network import Smen, Table, bag_values
from lurm_model.training.contrast import ItemPrediction, Targets, VolumePrediction, info_nce
from lurm_model.training.views import Views
from state.bags import UInt32


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part of the loss counts.

    Who comes back and how much is what the recurrence is for: with less of it, it stays near where it was drawn.
    """

    contrast: float = 1.0
    items: float = 1.0
    future_items: float = 1.0
    future_volume: float = 3.0


WEIGHTS = Weights()


class Objective(nn.Module):
    """Contrast, prediction of the other half's items, and of the future's items and volume: one number to lower.

    **Source**: the contrast is the paper's, the predictions are our decision.
    """

    def __init__(self, smen: Smen, popularity: Float32, weights: Weights = WEIGHTS) -> None:
        super().__init__()
        config = smen.config
        width = config.n_anchors * config.d_anchor
        self.smen, self.weights = smen, weights
        self.items = ItemPrediction(width, config.d_anchor, torch.from_numpy(popularity))
        self.future_items = ItemPrediction(width, config.d_anchor, torch.from_numpy(popularity))
        self.volume = VolumePrediction(width)

    def forward(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """The loss and what both halves' anchors carry. **Shapes**: -> scalar, float32[n, n_anchors * H] twice.

        Only the interests of the batch take part: the cost does not grow with the codebook.
        """
        present, views = _localise(views)
        table, vectors = self.smen.table(present), self.smen.anchors.interests[present]
        a, b = (self.smen.carried(half, table).flatten(1) for half in views.halves)
        life = self.smen.config.life_scale
        predicted = self.items(a, vectors, present, _targets(views.halves[1], life))
        predicted = predicted + self.items(b, vectors, present, _targets(views.halves[0], life))
        loss = self.weights.contrast * info_nce(a, b) + self.weights.items * predicted / 2
        if views.past is None or views.future is None:
            return loss, a, b
        return loss + self._future(views.past, views.future, table, present), a, b

    def _future(self, past: Batch, future: Batch, table: Table, present: Tensor) -> Tensor:
        life = self.smen.config.life_scale
        known = past.life.offsets.diff() > 0
        if int(known.sum()) < 2:
            return table.recurrent.new_zeros(())
        flat = self.smen.carried(past, table).flatten(1)
        vectors = self.smen.anchors.interests[present]
        items: Tensor = self.future_items(flat, vectors, present, _targets(future, life))
        volume: Tensor = self.volume(flat[known], future.life.offsets.diff()[known].float())
        return self.weights.future_items * items + self.weights.future_volume * volume


def log_popularity(interests: UInt32, n_interests: int) -> Float32:
    """Log of how often every interest is in a bag, smoothed."""
    counts = np.bincount(interests, minlength=n_interests)
    return np.asarray(np.log((counts + 1) / (counts.sum() + n_interests)), np.float32)


def _localise(views: Views) -> tuple[Tensor, Views]:
    """The interests that are present, and the views with indices into them."""
    batches = views.batches()
    scales = [(batch, name) for batch in batches for name in batch.scales]
    indices = [batch.scales[name].indices for batch, name in scales]
    present, local = torch.unique(torch.cat(indices), return_inverse=True)
    pieces = iter(torch.split(local, [len(part) for part in indices]))
    new = [
        replace(b, scales={name: replace(scale, indices=next(pieces)) for name, scale in b.scales.items()})
        for b in batches
    ]
    return present, Views.of(new)


def _targets(batch: Batch, life: str) -> Targets:
    scale = batch.scales[life]
    user = torch.repeat_interleave(torch.arange(batch.n_users, device=scale.indices.device), batch.life.offsets.diff())
    # On CUDA index_add_ would add in another order every time, and equal seeds would not give equal bundles.
    one = scale.weights.new_ones(1, 1)
    total = bag_values(torch.zeros_like(scale.indices), scale.weights, batch.life.offsets, one)[:, 0]
    return Targets(user, scale.indices, scale.weights / total[user])
