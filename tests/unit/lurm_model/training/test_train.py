from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from lurm_model.errors import TrainingDataError
from lurm_model.evaluation.evaluate import encode_events, probe_auc
from lurm_model.events import Events, UserLabels, day_rows
from lurm_model.files.datasets import synthetic
from lurm_model.inference.encoder import Encoder
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.training import learning
from lurm_model.training.learning import LearnOptions
from lurm_model.training.train import TrainOptions, train, train_smen
from state.bags import sum_pairs
from state.history import Rows, resolve
from state.periods import DAY, MS_PER_DAY, day_of

pytestmark = pytest.mark.trains

Population = tuple[Events, UserLabels]


@pytest.mark.slow
def test_equal_seeds_give_equal_bundles_and_other_seeds_others() -> None:
    events, _ = synthetic(n_users=150, n_items=120, n_days=10, seed=2)
    ids = [train(events, TrainOptions(seed=seed, n_interests=30, epochs=4)).model_id for seed in (5, 5, 6)]
    assert ids[0] == ids[1] != ids[2]


N_GROUPS, N_OF_A_GROUP, D_ITEM = 6, 60, 16
N_USERS, EVENTS_OF_A_USER = 600, 8


def known_interests(rng: np.random.Generator) -> tuple[np.ndarray, Rows]:
    """Users of six groups with 60 interests of their own each, and a fifth of noise: two users share few."""
    group = rng.integers(N_GROUPS, size=N_USERS)
    user = np.repeat(np.arange(N_USERS), EVENTS_OF_A_USER)
    own = group[user] * N_OF_A_GROUP + rng.integers(N_OF_A_GROUP, size=len(user))
    interest = np.where(rng.random(len(user)) < 0.2, rng.integers(N_GROUPS * N_OF_A_GROUP, size=len(user)), own)
    ts_ms = rng.integers(0, 60, len(user)) * MS_PER_DAY
    return group, day_rows(user, ts_ms, interest, np.ones(len(user), np.int64))


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """The same lives with the interests dealt out anew."""
    bags = replace(rows.bags, interests=rng.permutation(rows.bags.interests))
    bags = sum_pairs(bags.owners, bags.interests, bags.counts, len(bags))
    return replace(rows, bags=bags)


def vectors_after(rows: Rows, epochs: int) -> np.ndarray:
    """Users' vectors from interest vectors that start at random: whatever belongs together is found by training."""
    centroids = np.random.default_rng(0).normal(size=(N_GROUPS * N_OF_A_GROUP, D_ITEM)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    idf = np.append(np.ones(len(centroids)), 0).astype(np.float32)
    book = Codebook({}, centroids, idf, {}, np.zeros((0, D_ITEM), np.float32))
    config = SmenConfig(book.n_interests, D_ITEM, 59, n_vectors=4, n_recurrent=2, d_anchor=D_ITEM)
    weights, _ = train_smen(book, config, rows, LearnOptions(epochs, seed=0))
    encoder = Encoder(Bundle.build(config, book, weights, {}, {}), "cpu")
    return encoder.encode(resolve(rows, config.scale_objects, N_USERS), N_USERS).reshape(N_USERS, -1)


def met(vectors: np.ndarray, group: np.ndarray) -> float:
    """The share of users whose nearest other user is of their group."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    return float((group[cosine.argmax(axis=1)] == group).mean())


@pytest.mark.slow
def test_training_finds_known_interests_which_its_start_does_not_and_noise_has_not(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A start that knows nothing is nothing to stay near.
    monkeypatch.setattr(learning, "ANCHORS_LEARNING_RATE", learning.LEARNING_RATE / 5)
    group, rows = known_interests(rng)
    untrained, trained = (vectors_after(rows, epochs) for epochs in (0, 60))
    assert met(untrained, group) < 0.6
    assert met(trained, group) > 0.85
    assert met(trained, rng.permutation(group)) < 0.3
    assert met(vectors_after(shuffled(rows, rng), 60), group) < 0.3
    before, after = (fmean(probe_auc(v, group == g, 0) for g in range(3)) for v in (untrained, trained))
    assert after > max(0.97, before + 0.03)


def test_a_probe_of_trained_vectors_finds_the_groups_and_not_shuffled_labels(
    population: Population, bundle: Bundle, rng: np.random.Generator
) -> None:
    events, labels = population
    vectors = encode_events(bundle, events).reshape(len(events.users), -1)
    group = np.array(labels.columns["group"]) == "0"
    assert probe_auc(vectors, group, seed=0) > 0.9
    assert abs(np.mean([probe_auc(vectors, rng.permutation(group), seed) for seed in range(3)]) - 0.5) < 0.12


def test_training_lowers_the_loss(bundle: Bundle) -> None:
    losses = bundle.manifest["metrics"]["loss"]
    assert losses[-1] < losses[0] - 0.3


def test_no_epochs_leave_the_interest_vectors_at_the_centroids() -> None:
    events, _ = synthetic(n_users=120, n_items=110, seed=2)
    bundle = train(events, TrainOptions(epochs=0))
    np.testing.assert_array_equal(bundle.weights["anchors.interests"][:-1], bundle.codebook.centroids)
    assert bundle.codebook.n_clusters == 55
    assert bundle.codebook.idf[-1] == 0


def test_a_hundred_users_and_a_hundred_items_are_enough() -> None:
    events, _ = synthetic(n_users=130, n_items=130, n_days=20, seed=0)
    first = events.where((events.user < 100) & (events.item < 100))
    bundle = train(first, TrainOptions(scales="day"))
    assert bundle.scales == (DAY,)
    assert np.isfinite(encode_events(bundle, first)).all()


def test_items_without_attributes_are_fine() -> None:
    events, _ = synthetic(n_users=120, n_items=110, n_days=10, seed=4)
    bare = replace(events, item_attributes=[{}] * 110)
    bundle = train(bare, TrainOptions(epochs=0, n_interests=20))
    assert bundle.codebook.assign({"topic": ["1"]}) == bundle.codebook.unknown


def test_too_little_to_learn_from_is_said_with_numbers() -> None:
    events, _ = synthetic(n_users=40, n_items=120)
    with pytest.raises(TrainingDataError, match="users=40 items=1"):
        train(events)


def test_the_manifest_tells_what_the_model_was_trained_on(population: Population, bundle: Bundle) -> None:
    events = population[0]
    training = bundle.manifest["training"]
    assert training["n_events"] == len(events)
    assert training["ts_ms_last"] == events.ts_ms[-1]
    assert bundle.config.reference_day == day_of(events.ts_ms).max()
    assert bundle.manifest["config"]["scales"] == ["day", "month"]


def test_progress_ends_every_stage_it_begins() -> None:
    events, _ = synthetic(n_users=120, n_items=110, n_days=10, seed=4)
    seen: dict[str, tuple[int, int]] = {}
    train(events, TrainOptions(epochs=1), lambda stage, done, total: seen.__setitem__(stage, (done, total)))
    stages = [stage for stage in seen if not stage.startswith("epoch")]
    assert stages == ["item vectors", "k-means", "SMEN"]
    assert all(done == total for done, total in seen.values())
