"""The encoder against a plain dense reference: one user, one period, one interest at a time."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from lurm_model.bundle import Bundle
from lurm_model.events import day_rows
from lurm_model.inference import encoder as encoder_module
from lurm_model.inference.encoder import Encoder
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.bags import concat, sum_bags
from state.history import Rows, ScaleBags, before_window, resolve
from state.periods import DAY, MONTH, MS_PER_DAY, SCALES

N_CLUSTERS = 40
REFERENCE_DAY = 11_350


def make_bundle(scales: tuple[str, ...]) -> Bundle:
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(N_CLUSTERS, 64)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    idf = np.append(1 + rng.random(N_CLUSTERS), 0).astype(np.float32)
    book = Codebook({}, centroids, idf, {}, np.zeros((0, 64), np.float32))
    config = SmenConfig(n_interests=book.n_interests, d_item=64, reference_day=REFERENCE_DAY, scales=scales)
    torch.manual_seed(1)
    smen = Smen(config)
    with torch.no_grad():
        for parameter in smen.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        smen.readout.condense.add_(0.1 * torch.randn_like(smen.readout.condense))
        smen.anchors.interests[:N_CLUSTERS] += torch.from_numpy(centroids)
    return Bundle.build(config, book, {k: v.detach().numpy() for k, v in smen.state_dict().items()}, {}, {})


def make_rows(n_users: int = 30, n_events: int = 2000, seed: int = 5) -> Rows:
    """Lives of up to 300 days; users 10 to 12 have no events, user 13 knows only the unknown interest."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, n_users, n_events)
    user[(user >= 10) & (user < 13)] = 0
    interest = rng.integers(0, N_CLUSTERS + 1, n_events)
    interest[user == 13] = N_CLUSTERS
    day = REFERENCE_DAY + 20 - rng.integers(0, 300, n_events)
    return day_rows(user, day * MS_PER_DAY, interest, np.ones(n_events, np.int64))


def roll_up(rows: Rows, n_users: int) -> Rows:
    """What a compaction leaves: days before the window summed into their month's row."""
    old = before_window(rows, n_users)
    kept = np.setdiff1d(np.arange(len(rows)), old)
    month = MONTH.of_day(rows.period[old])
    code, owners = np.unique((rows.user[old] << 32) + month, return_inverse=True)
    bags = concat([rows.bags.take(kept), sum_bags(owners, rows.bags.take(old), len(code))])
    user = np.concatenate([rows.user[kept], code >> 32])
    active = np.zeros(len(code), np.int64)
    np.bitwise_or.at(active, owners, 1 << (rows.period[old] - MONTH.first_day(month)))
    columns = {
        "scale": np.concatenate([rows.scale[kept], np.full(len(code), MONTH.code)]),
        "period": np.concatenate([rows.period[kept], code & 0xFFFFFFFF]),
        "seq": np.zeros(len(user), np.int64),
        "event_time_ms": np.zeros(len(user), np.int64),
        "active": np.concatenate([np.zeros(len(kept), np.int64), active]),
    }
    order = np.argsort(user, kind="stable")
    return Rows(user[order], **{k: v[order] for k, v in columns.items()}, bags=bags.take(order))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Plain:
    """SMEN in double precision, by its definition."""

    def __init__(self, bundle: Bundle) -> None:
        self.w = {name: array.astype(np.float64) for name, array in bundle.weights.items()}
        self.idf, self.config = bundle.codebook.idf, bundle.config

    def values(self, weights: np.ndarray) -> np.ndarray:
        """V of one dense bag of weights, [n_sums + R, H]."""
        e, a, p = (self.w[f"anchors.{name}"] for name in ("interests", "anchors", "projections"))
        total = np.zeros((self.config.n_anchors, self.config.d_anchor))
        for d in np.flatnonzero(weights):
            alpha = softmax(e[d] @ a.T / self.config.tau)
            for m in range(self.config.n_anchors):
                total[m] += weights[d] * alpha[m] * e[d] @ p[m]
        return total

    def step(self, prefix: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """One step of a GRU as torch defines it."""
        i = np.split(self.w[prefix + "weight_ih_l0"] @ x + self.w[prefix + "bias_ih_l0"], 3)
        g = np.split(self.w[prefix + "weight_hh_l0"] @ h + self.w[prefix + "bias_hh_l0"], 3)
        reset, update = sigmoid(i[0] + g[0]), sigmoid(i[1] + g[1])
        return (1 - update) * np.tanh(i[2] + reset * g[2]) + update * h

    def bags(self, scale: ScaleBags, user: int) -> list[tuple[int, np.ndarray]]:
        """The user's periods and their dense counts, in order."""
        found = []
        for k in np.flatnonzero(scale.user == user):
            counts = np.zeros(len(self.idf))
            pairs = slice(scale.bags.offsets[k], scale.bags.offsets[k + 1])
            counts[scale.bags.interests[pairs]] = scale.bags.counts[pairs]
            found.append((int(scale.period[k]), counts))
        return found

    def recurrent(self, name: str, scale: ScaleBags, user: int) -> np.ndarray | None:
        """The states after the user's last period, [R, H]."""
        reference = int(SCALES[name].of_day(np.array([self.config.reference_day]))[0])
        states = np.zeros((self.config.n_recurrent, self.config.d_anchor))
        previous, active = None, [bits.bit_count() for bits in scale.active[scale.user == user].tolist()]
        for (period, counts), n_active in zip(self.bags(scale, user), active, strict=True):
            weights = np.log1p(counts) * self.idf
            norm_sq = (weights**2).sum()
            gap = 0 if previous is None else period - previous
            date = min(period - reference, 0)
            logs = np.log1p([norm_sq, gap, counts.sum(), (counts > 0).sum(), n_active, abs(date)])
            features = np.array([norm_sq > 0, *logs[:5], -logs[5]])
            value = self.values(weights)[self.config.n_sums :] / np.sqrt(max(norm_sq, 1e-30))
            for r in range(self.config.n_recurrent):
                states[r] = self.step(f"time.{name}.cells.{r}.", np.concatenate([value[r], features]), states[r])
            previous = period
        return None if previous is None else states

    def sums(self, life: list[tuple[int, np.ndarray]]) -> np.ndarray:
        """The sums over the life by what is left of each period, [n_sums, H]."""
        first_day = SCALES[self.config.life_scale].first_day
        total, norm_sq = np.zeros((self.config.n_sums, self.config.d_anchor)), np.zeros(self.config.n_sums)
        half_lives = [np.inf] * self.config.kinds_of_sums[0] + list(self.config.fading)
        for period, counts in life:
            weights, days = np.log1p(counts) * self.idf, int(np.diff(first_day(np.array([period, life[-1][0]])))[0])
            left = np.array([0.5 ** (days / half_life) for half_life in half_lives])
            total += left[:, None] * self.values(weights)[: self.config.n_sums]
            norm_sq += left**2 * (weights**2).sum()
        return total / np.sqrt(np.maximum(norm_sq, 1e-30))[:, None]

    def fused(self, periods: Mapping[str, ScaleBags], user: int) -> np.ndarray:
        """The states of all scales as one, [R, H]."""
        out = np.zeros((self.config.n_recurrent, self.config.d_anchor))
        states = [self.recurrent(name, periods[name], user) for name in self.config.scales]
        for r in range(self.config.n_recurrent):
            query, bias = self.w["scales.query"][:, r], self.w["scales.bias"][:, r]
            present = [(s, state[r]) for s, state in enumerate(states) if state is not None]
            if present:
                gates = softmax(np.array([state @ query[s] + bias[s] for s, state in present]))
                out[r] = sum(gate * state for gate, (_, state) in zip(gates, present, strict=True))
        return out

    def encode(self, periods: Mapping[str, ScaleBags], user: int) -> np.ndarray:
        """The vectors: part k stands in vector m by the cosine transform's k-th wave, the condensed states first."""
        sums = self.sums(self.bags(periods[self.config.life_scale], user))
        condensed = self.fused(periods, user).ravel() @ self.w["readout.condense"]
        parts = np.concatenate([condensed.reshape(-1, self.config.d_anchor), sums])
        return sum(part * wave(k)[:, None] for k, part in enumerate(parts))

    def sums_of(self, vectors: np.ndarray) -> np.ndarray:
        """What the sums were that these vectors were made of, [n_sums, H]."""
        n_vectors, n_condensed = self.config.n_vectors, self.config.n_condensed
        return np.stack([wave(k) @ vectors for k in range(n_condensed, n_vectors)])


def wave(k: int, n: int = 10) -> np.ndarray:
    """The cosine wave of k half turns over n places, of length 1."""
    values = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("scales", [("day",), ("day", "month"), ("day", "week", "month")])
def test_the_fast_encoder_equals_the_plain_one(scales: tuple[str, ...]) -> None:
    bundle = make_bundle(scales)
    periods = resolve(make_rows(), bundle.scales, 30)
    fast = Encoder(bundle, "cpu").encode(periods, 30)
    plain = Plain(bundle)
    for user in range(30):
        np.testing.assert_allclose(fast[user], plain.encode(periods, user), rtol=1e-4, atol=1e-5)


def test_users_without_rows_get_zeros_and_an_unknown_life_still_has_a_rhythm() -> None:
    bundle = make_bundle(("day", "month"))
    vectors = Encoder(bundle, "cpu").encode(resolve(make_rows(), bundle.scales, 30), 30)
    assert vectors.dtype == np.float32
    assert vectors.shape == (30, 10, 64)
    assert np.abs(vectors[10:13]).max() == 0
    assert np.abs(Plain(bundle).sums_of(vectors[13])).max() < 1e-6
    assert np.abs(vectors[13]).max() > 0.01
    nobody = day_rows(*np.zeros((4, 0), np.int64))
    assert Encoder(bundle, "cpu").encode(resolve(nobody, bundle.scales, 0), 0).shape == (0, 10, 64)


def test_rolled_up_rows_encode_as_the_days_they_came_from() -> None:
    bundle = make_bundle(("day", "month"))
    rows = make_rows()
    rolled = roll_up(rows, 30)
    assert len(rolled) < len(rows)
    encode = Encoder(bundle, "cpu").encode
    days, months = (encode(resolve(r, bundle.scales, 30), 30) for r in (rows, rolled))
    np.testing.assert_allclose(months, days, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("batch_users", [1, 7, 30])
def test_how_users_are_batched_does_not_matter(monkeypatch: pytest.MonkeyPatch, batch_users: int) -> None:
    bundle = make_bundle(("day", "month"))
    periods = resolve(make_rows(), bundle.scales, 30)
    whole = Encoder(bundle, "cpu").encode(periods, 30)
    monkeypatch.setattr(encoder_module, "BATCH_USERS", batch_users)
    np.testing.assert_allclose(Encoder(bundle, "cpu").encode(periods, 30), whole, rtol=1e-4, atol=1e-6)


def test_every_event_of_the_life_counts_once() -> None:
    bundle = make_bundle(("day", "month"))
    one = day_rows(
        np.zeros(2, np.int64), np.array([11_000, 11_340]) * MS_PER_DAY, np.array([1, 2]), np.ones(2, np.int64)
    )
    sums = Plain(bundle).sums_of(Encoder(bundle, "cpu").encode(resolve(one, bundle.scales, 1), 1)[0])
    weights = np.zeros(N_CLUSTERS + 1)
    weights[[1, 2]] = np.log(2) * bundle.codebook.idf[[1, 2]]
    n_plain = bundle.config.kinds_of_sums[0]
    expected = Plain(bundle).values(weights)[:n_plain] / np.linalg.norm(weights)
    np.testing.assert_allclose(sums[:n_plain], expected, rtol=1e-4, atol=1e-6)
    assert DAY.name in bundle.config.scales


def test_a_fading_sum_tells_what_came_first() -> None:
    """Two lives of the same two months, in the other order: plain sums are the same, those that fade are not."""
    bundle = make_bundle(("day", "month"))
    ts_ms = np.tile(np.array([11_000, 11_340]) * MS_PER_DAY, 2)
    lives = day_rows(np.array([0, 0, 1, 1]), ts_ms, np.array([1, 2, 2, 1]), np.ones(4, np.int64))
    vectors = Encoder(bundle, "cpu").encode(resolve(lives, bundle.scales, 2), 2)
    (first, second), n_plain = map(Plain(bundle).sums_of, vectors), bundle.config.kinds_of_sums[0]
    np.testing.assert_allclose(first[:n_plain], second[:n_plain], rtol=1e-5, atol=1e-7)
    assert np.abs(first[n_plain:] - second[n_plain:]).max(axis=1).min() > 5e-3


def test_a_model_reads_later_years_as_the_last_day_of_its_training() -> None:
    bundle, rows = make_bundle(("day",)), make_rows()
    later = replace(rows, period=rows.period - rows.period.min() + REFERENCE_DAY)
    much_later = replace(later, period=later.period + 3_000)
    before, here, there = (
        Encoder(bundle, "cpu").encode(resolve(each, bundle.scales, 30), 30) for each in (rows, later, much_later)
    )
    np.testing.assert_array_equal(there, here)
    assert np.abs(here - before).max() > 0.01


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_cuda_equals_the_cpu_within_tf32() -> None:
    bundle = make_bundle(("day", "month"))
    periods = resolve(make_rows(), bundle.scales, 30)
    cpu, cuda = (Encoder(bundle, device).encode(periods, 30) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, rtol=0.01, atol=0.01)
