import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse as sp

from lurm_model.baselines import baseline_features, raw_bag, recency_frequency
from lurm_model.bundle import Bundle
from lurm_model.datasets import synthetic
from lurm_model.evaluate import evaluate, item_interests, probe_auc
from lurm_model.events import Events, UserLabels
from lurm_model.tasks import default_cut, eligible, event_tasks, future_tasks, ta_feng_tasks
from state.periods import MS_PER_DAY


def test_a_probe_finds_what_is_linear_and_nothing_in_noise(rng: np.random.Generator) -> None:
    features = rng.normal(size=(600, 8)).astype(np.float32)
    labels = features[:, 0] + 0.5 * rng.normal(size=600) > 0
    assert probe_auc(features, labels, 0) > 0.93
    assert probe_auc(sp.csr_matrix(features), labels, 0) > 0.93
    assert abs(probe_auc(features, rng.random(600) < 0.5, 0) - 0.5) < 0.12


def test_a_probe_of_sparse_rows_finds_a_rare_label_among_many_columns(rng: np.random.Generator) -> None:
    columns = rng.integers(0, 2000, size=(8000, 10))
    rare = rng.random(8000) < 0.06
    columns[rare, 0] = rng.integers(0, 5, size=rare.sum())
    rows = np.repeat(np.arange(8000), 10)
    features = sp.csr_matrix((np.full(80_000, 0.3, np.float32), (rows, columns.ravel())), shape=(8000, 2000))
    assert probe_auc(features, rare, 0) > 0.95


def test_a_probe_of_one_class_is_not_a_number(rng: np.random.Generator) -> None:
    assert math.isnan(probe_auc(rng.normal(size=(50, 3)), np.zeros(50, np.bool_), 0))


def tiny() -> Events:
    """Two users: one with items 0, 0, 1 on days 0, 0, 60, the other with item 2 on day 69."""
    return Events(
        user=np.array([0, 0, 0, 1]),
        item=np.array([0, 0, 1, 2]),
        ts_ms=np.array([0, 5, 60 * MS_PER_DAY, 69 * MS_PER_DAY]),
        weight=np.ones(4, np.int64),
        users=["a", "b"],
        items=["x", "y", "z"],
        item_attributes=[{"kind": ["k"]}, {"kind": ["k"]}, {}],
    )


def test_recency_and_frequency_look_back_from_the_cut() -> None:
    features = recency_frequency(tiny(), 70 * MS_PER_DAY)
    volume, days, (last, _, first, active) = np.split(features[0], [14, 28])
    np.testing.assert_allclose(np.expm1(volume), [0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.expm1(days), [0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], atol=1e-6)
    assert (last, first) == (9, 69)
    assert active == pytest.approx(np.log(3))


def test_a_raw_bag_has_rows_of_length_one() -> None:
    bag = raw_bag(tiny(), tiny().item, 3)
    np.testing.assert_allclose(np.linalg.norm(bag.toarray(), axis=1), 1, rtol=1e-6)
    assert bag[0, 0] > bag[0, 1] > 0 == bag[0, 2]


def test_the_future_is_churn_and_preference_after_the_cut() -> None:
    tasks = future_tasks(tiny(), 65 * MS_PER_DAY)
    assert tasks["churn"].labels.tolist() == [[True], [False]]
    assert tasks["preference"].labels[:, 0].tolist() == [False, True]
    assert eligible(dataclasses.replace(tiny(), user=np.zeros(4, np.int64)), 2**60).tolist() == []


def test_ta_feng_asks_for_age_only_where_it_is_known() -> None:
    tasks = ta_feng_tasks(tiny(), UserLabels(["a", "b"], {"age_group": ["45-49", ""]}))
    assert list(tasks) == ["age_ge_45", "age_lt_35", "churn", "preference"]
    assert tasks["age_ge_45"].known.tolist() == [True, False]
    assert tasks["age_ge_45"].labels[0, 0]
    assert not tasks["age_lt_35"].labels[0, 0]


def test_an_unseen_item_is_encoded_by_its_attributes(bundle: Bundle) -> None:
    attributes = [{"topic": ["1"]}, {"topic": ["nowhere"]}]
    events = dataclasses.replace(tiny(), items=["new", "alien"], item_attributes=attributes)
    found = item_interests(bundle, events).tolist()
    assert found == [bundle.codebook.assign(attributes[0]), bundle.codebook.unknown]
    assert found[0] != bundle.codebook.unknown


def test_the_table_has_every_task_and_model_side_by_side(bundle: Bundle) -> None:
    events, labels = synthetic(n_users=250, n_items=200, n_groups=3, seed=7)
    cut_ms = default_cut(events)
    tasks = event_tasks(events, labels, cut_ms)
    tasks["preference"] = dataclasses.replace(tasks["preference"], labels=tasks["preference"].labels[:, :2])
    table = evaluate(bundle, events, tasks, cut_ms, n_seeds=1)
    assert list(table) == ["group", "churn", "preference"]
    models = {"smen", "bag", "item_bag", "svd_64", "svd_256", "mean_pooling", "mean_pooling_rf"}
    for row in table.values():
        assert set(row) == models
        assert all(set(cell) == {"auc", "std"} for cell in row.values())
    assert table["group"]["smen"]["auc"] > 0.8
    assert table["churn"]["mean_pooling_rf"]["auc"] > 0.8


def test_features_see_nothing_after_the_cut(bundle: Bundle) -> None:
    events, _ = synthetic(n_users=120, n_items=200, n_groups=3, seed=7)
    cut_ms = default_cut(events)
    interest = item_interests(bundle, events)
    before = events.where(events.ts_ms < cut_ms)
    features = baseline_features(before, interest, bundle.codebook.n_interests, cut_ms, 0)
    assert {len(matrix) if isinstance(matrix, np.ndarray) else matrix.shape[0] for matrix in features.values()} == {120}
