"""The training loss beside its definition, computed one user and one interest at a time in double precision."""

import dataclasses
from typing import TypeVar

import numpy as np
import pytest
import torch

from lurm_model.events import day_rows
from lurm_model.smen.collate import Batch, LifeBatch, ScaleBatch
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from lurm_model.training.objective import Objective, Weights, _localise, _targets, log_popularity
from lurm_model.training.views import Reader, Views, epoch_views
from state.history import Rows
from state.periods import MS_PER_DAY

N_INTERESTS, N_USERS = 25, 7
CONFIG = SmenConfig(N_INTERESTS, d_item=5, reference_day=59, n_vectors=4, n_recurrent=2, d_anchor=5)
WEIGHTS = Weights(contrast=0.7, items=1.3, future_items=0.4, future_volume=2.0)


Part = TypeVar("Part", ScaleBatch, LifeBatch)


def double(batch: Batch) -> Batch:
    def part(found: Part) -> Part:
        columns = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        return type(found)(**{n: c.double() if c.is_floating_point() else c for n, c in columns.items()})

    return Batch(batch.n_users, {name: part(scale) for name, scale in batch.scales.items()}, part(batch.life))


@pytest.fixture
def rows(rng: np.random.Generator) -> Rows:
    """Half of the interests stay away; user 0 begins after every cut."""
    user, interest = rng.integers(0, N_USERS, 80), 2 * rng.integers(0, 12, 80)
    day = np.where(user == 0, 59, rng.integers(0, 60, 80))
    return day_rows(user, day * MS_PER_DAY, interest, rng.integers(1, 4, 80))


@pytest.fixture
def views(rows: Rows, rng: np.random.Generator) -> Views:
    reader = Reader(CONFIG, np.append(1 + rng.random(N_INTERESTS - 1), 0).astype(np.float32))
    found = next(epoch_views(rows, np.arange(N_USERS), N_USERS, reader, rng))
    return Views.of([double(batch) for batch in found.batches()])


@pytest.fixture
def objective(rows: Rows) -> Objective:
    torch.manual_seed(2)
    made = Objective(Smen(CONFIG), log_popularity(rows.bags.interests, N_INTERESTS), WEIGHTS).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def dense(batch: Batch) -> np.ndarray:
    """Each user's share of every interest over the whole life, [n, D]; zeros for who has nothing."""
    scale, total = batch.scales[CONFIG.life_scale], np.zeros((batch.n_users, N_INTERESTS))
    for user in range(batch.n_users):
        for pair in range(int(batch.life.offsets[user]), int(batch.life.offsets[user + 1])):
            total[user, int(scale.indices[pair])] += float(scale.weights[pair])
    return total / np.maximum(total.sum(axis=1, keepdims=True), 1e-30)


def cross_entropy(logits: np.ndarray, share: np.ndarray) -> float:
    """Of the users who had anything."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    had = share.sum(axis=1) > 0
    return float(-(share[had] * np.log(p[had])).sum() / had.sum())


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similarity = np.exp(a @ b.T / 0.2)
    own = np.diag(similarity)
    return float(-(np.log(own / similarity.sum(1)) + np.log(own / similarity.sum(0))).mean() / 2)


def volume_loss(score: np.ndarray, volume: np.ndarray) -> float:
    score = score - score.mean(axis=0)
    back, amount = volume > 0, np.log1p(volume)
    share = min(max(back.mean(), 0.02), 0.98)
    p = 1 / (1 + np.exp(-(score[:, 0] + np.log(share / (1 - share)))))
    amount = (amount - amount.mean()) / amount.std(ddof=1)
    return float(-np.log(np.where(back, p, 1 - p)).mean() + ((score[:, 1] - amount) ** 2).mean() / 2)


def plain_loss(objective: Objective, views: Views) -> float:
    """The weighted total, over all interests with those that are absent struck out."""
    w = {name: tensor.numpy() for name, tensor in objective.state_dict().items()}
    scales = [scale for batch in views.batches() for scale in batch.scales.values()]
    present = sorted({int(i) for scale in scales for i in scale.indices})
    table = objective.smen.table()
    assert views.past is not None
    assert views.future is not None
    a, b, past = (objective.smen.carried(x, table).flatten(1).numpy() for x in (*views.halves, views.past))

    def predict(head: str, flat: np.ndarray, seen: Batch) -> float:
        hidden = flat @ w[f"{head}.head.weight"].T + w[f"{head}.head.bias"]
        logits = hidden @ w["smen.anchors.interests"].T + w[f"{head}.bias"]
        return cross_entropy(logits[:, present], dense(seen)[:, present])

    items = (predict("items", a, views.halves[1]) + predict("items", b, views.halves[0])) / 2
    known = np.flatnonzero(dense(views.past).any(axis=1))
    volume = np.diff(views.future.life.offsets.numpy())[known]
    score = past[known] @ w["volume.head.weight"].T + w["volume.head.bias"]
    return (
        WEIGHTS.contrast * contrast(a, b)
        + WEIGHTS.items * items
        + WEIGHTS.future_items * predict("future_items", past, views.future)
        + WEIGHTS.future_volume * volume_loss(score, volume)
    )


def test_the_loss_is_the_weighted_sum_of_its_parts_by_their_definitions(objective: Objective, views: Views) -> None:
    with torch.no_grad():
        loss, a, b = objective(views)
        assert float(loss) == pytest.approx(plain_loss(objective, views), rel=1e-6)
        table = objective.smen.table()
        for found, half in zip((a, b), views.halves, strict=True):
            torch.testing.assert_close(found, objective.smen.carried(half, table).flatten(1))


def test_without_a_future_the_loss_is_that_of_the_halves(objective: Objective, views: Views) -> None:
    short = Views.of(views.halves)
    objective.weights = dataclasses.replace(WEIGHTS, future_items=0.0, future_volume=0.0)
    with torch.no_grad():
        assert float(objective(short)[0]) == pytest.approx(float(objective(views)[0]))


def test_local_indices_name_the_same_interests(views: Views) -> None:
    present, local = _localise(views)
    assert present.tolist() == sorted(set(present.tolist()))
    for before, after in zip(views.batches(), local.batches(), strict=True):
        for name, scale in before.scales.items():
            torch.testing.assert_close(present[after.scales[name].indices], scale.indices)


def test_targets_are_each_users_shares_of_the_whole_life(views: Views) -> None:
    assert views.future is not None
    for batch in (*views.halves, views.future):
        targets, found = _targets(batch, CONFIG.life_scale), np.zeros((N_USERS, N_INTERESTS))
        np.add.at(found, (targets.user.numpy(), targets.candidate.numpy()), targets.share.numpy())
        np.testing.assert_allclose(found, dense(batch), atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_cuda_the_targets_are_the_same_every_time(rng: np.random.Generator) -> None:
    user, n_interests = np.repeat(np.arange(20), 2000), 5000
    config = dataclasses.replace(CONFIG, n_interests=n_interests)
    rows = day_rows(user, 0 * user, rng.integers(0, n_interests - 1, len(user)), 1 + 0 * user)
    reader = Reader(config, np.append(1 + rng.random(n_interests - 1), 0).astype(np.float32))
    half = next(epoch_views(rows, np.arange(20), 20, reader, rng)).halves[0].to("cuda")
    first, *others = (_targets(half, config.life_scale).share for _ in range(20))
    assert all(torch.equal(first, other) for other in others)


def test_the_gradient_of_the_whole_loss_is_its_slope_along_every_parameter(objective: Objective, views: Views) -> None:
    """Central differences along a random direction of each parameter."""
    torch.autograd.backward(objective(views)[0])
    generator = torch.Generator().manual_seed(0)
    for name, parameter in objective.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step, around = 1e-5, []
        with torch.no_grad():
            for sign in (1, -2):
                parameter.add_(direction, alpha=sign * step)
                around.append(float(objective(views)[0]))
            parameter.add_(direction, alpha=step)
        slope = (around[0] - around[1]) / (2 * step)
        # Only differences between users count there, so their common level does not.
        assert (abs(slope) > 1e-9) == (name != "volume.head.bias"), name
        assert parameter.grad is not None, name
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7), name
