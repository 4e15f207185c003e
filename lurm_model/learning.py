"""How SMEN learns: epochs of batches of users, two views of each, Adam."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lurm_model.collate import Batch, ScaleBatch, collate, user_range
from lurm_model.config import SmenConfig
from lurm_model.contrast import ItemPrediction, Targets, info_nce, split_views
from lurm_model.progress import Progress
from lurm_model.smen import Smen
from lurm_model.weighting import Float32
from state.history import Rows, ScaleBags, resolve
from state.periods import Int64

BATCH_USERS = 256
LEARNING_RATE = 1e-3
PREDICTION_WEIGHT = 1.0
# Few users make few batches: they are gone through more often, so that something is learned at all.
STEPS_MIN = 40
# More users than this add nothing to an epoch but time; every epoch draws its own.
EPOCH_USERS_MAX = 200_000

Views = tuple[Mapping[str, ScaleBags], Mapping[str, ScaleBags]]


def learn(smen: Smen, rows: Rows, idf: Float32, epochs: int, place: tuple[int, str], progress: Progress) -> list[float]:
    """Train in place; the mean loss of every epoch. ``place`` is (seed, device)."""
    seed, device = place
    rng = np.random.default_rng(seed)
    users = _with_two_events(rows)
    batches = -(-min(len(users), EPOCH_USERS_MAX) // BATCH_USERS)
    epochs = max(epochs, -(-STEPS_MIN // batches)) if epochs else 0
    prediction = _start_prediction(smen, rows, seed)
    smen.to(device).train()
    prediction.to(device)
    optimiser = torch.optim.Adam([*smen.parameters(), *prediction.parameters()], LEARNING_RATE)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for step, (a, b) in enumerate(_batches(rows, users, smen.config, idf, rng)):
            loss = _loss(smen, prediction, a.to(device), b.to(device))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += float(loss.detach())
            progress("SMEN", epoch * batches + step + 1, epochs * batches)
        losses.append(round(total / batches, 4))
    smen.to("cpu").eval()
    return losses


def _start_prediction(smen: Smen, rows: Rows, seed: int) -> ItemPrediction:
    config = smen.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        popularity = _popularity(rows, config.n_interests)
        return ItemPrediction(config.n_anchors * config.d_anchor, config.d_anchor, popularity)


def _loss(smen: Smen, prediction: ItemPrediction, a: Batch, b: Batch) -> Tensor:
    """Contrast plus prediction. Only the interests of the batch take part: the cost does not grow with the codebook."""
    life = smen.config.life_scale
    both = torch.cat([s.indices for name in smen.config.scales for s in (a.scales[name], b.scales[name])])
    present, local = torch.unique(both, return_inverse=True)
    a, b = _localise((a, b), local, smen.config)
    table = smen.table(present)
    flat_a, flat_b = smen(a, table).flatten(1), smen(b, table).flatten(1)
    vectors = smen.anchors.interests[present]
    loss_a: Tensor = prediction(flat_a, vectors, present, _targets(b, life))
    loss_b: Tensor = prediction(flat_b, vectors, present, _targets(a, life))
    return info_nce(flat_a, flat_b) + PREDICTION_WEIGHT * (loss_a + loss_b) / 2


def _localise(batches: tuple[Batch, Batch], local: Tensor, config: SmenConfig) -> tuple[Batch, Batch]:
    """The batches with indices into the interests that are present."""
    pieces = iter(torch.split(local, [len(batch.scales[name].indices) for name in config.scales for batch in batches]))
    scales: tuple[dict[str, ScaleBatch], dict[str, ScaleBatch]] = ({}, {})
    for name in config.scales:
        for batch, new in zip(batches, scales, strict=True):
            new[name] = replace(batch.scales[name], indices=next(pieces))
    return Batch(batches[0].n_users, scales[0]), Batch(batches[1].n_users, scales[1])


def _targets(batch: Batch, life: str) -> Targets:
    scale = batch.scales[life]
    user = torch.repeat_interleave(torch.arange(batch.n_users, device=scale.indices.device), scale.life_offsets.diff())
    total = torch.zeros(batch.n_users, device=user.device).index_add_(0, user, scale.weights)
    return Targets(user, scale.indices, scale.weights / total[user])


def _batches(
    rows: Rows, users: Int64, config: SmenConfig, idf: Float32, rng: np.random.Generator
) -> Iterator[tuple[Batch, Batch]]:
    """One epoch: the users in a new order, split anew."""
    order = rng.permutation(users)[:EPOCH_USERS_MAX]
    place = np.full(int(rows.user.max()) + 1, -1, np.int64)
    place[order] = np.arange(len(order))
    chosen = np.flatnonzero(place[rows.user] >= 0)
    columns = {name: getattr(rows, name)[chosen] for name in ("scale", "period", "seq", "event_time_ms")}
    drawn = replace(rows, user=place[rows.user[chosen]], bags=rows.bags.take(chosen), **columns)
    views = [resolve(view, config.scale_objects, len(order)) for view in split_views(drawn, rng)]
    for start in range(0, len(order), BATCH_USERS):
        stop = min(start + BATCH_USERS, len(order))
        a, b = (
            collate({name: user_range(view[name], start, stop) for name in config.scales}, stop - start, config, idf)
            for view in views
        )
        yield a, b


def _with_two_events(rows: Rows) -> Int64:
    """Users with something to split."""
    counts = np.bincount(rows.user[rows.bags.owners], weights=rows.bags.counts)
    return np.flatnonzero(counts >= 2)


def _popularity(rows: Rows, n_interests: int) -> Tensor:
    counts = np.bincount(rows.bags.interests, minlength=n_interests)
    return torch.from_numpy(np.log((counts + 1) / (counts.sum() + n_interests)).astype(np.float32))
