import numpy as np
import pytest

from lurm_model.bundle import Bundle
from lurm_model.datasets import synthetic
from lurm_model.errors import TrainingDataError
from lurm_model.evaluate import encode_events, probe_auc
from lurm_model.events import Events, UserLabels
from lurm_model.train import TrainOptions, train
from state.periods import DAY, day_of

Population = tuple[Events, UserLabels]


def test_equal_seeds_give_equal_bundles_and_other_seeds_others() -> None:
    events, _ = synthetic(n_users=150, n_items=120, n_days=10, seed=2)
    ids = [train(events, TrainOptions(seed=seed, n_interests=30)).model_id for seed in (5, 5, 6)]
    assert ids[0] == ids[1] != ids[2]


def test_training_finds_the_groups_of_a_population_and_does_not_when_labels_are_shuffled(
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
    bare = Events(*(getattr(events, n) for n in ("user", "item", "ts_ms", "weight", "users", "items")), [{}] * 110)
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
