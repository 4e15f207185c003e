import dataclasses
import tracemalloc

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from lurm_model.evaluation.baselines import baseline_features, raw_bag, recency_frequency
from lurm_model.evaluation.evaluate import Questions, by_history, by_size, evaluate, item_interests
from lurm_model.evaluation.tasks import default_cut, eligible, event_tasks, future_tasks, item_categories, ta_feng_tasks
from lurm_model.events import Events, UserLabels
from lurm_model.files.datasets import synthetic
from state.periods import MS_PER_DAY


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


def items_with(**attributes: list[str]) -> Events:
    """One event of each item; the attributes' values, item by item."""
    n = len(next(iter(attributes.values())))
    names = [{key: [values[i]] for key, values in attributes.items() if values[i]} for i in range(n)]
    one = np.ones(n, np.int64)
    return Events(0 * one, np.arange(n), 0 * one, one, ["a"], [f"i{i}" for i in range(n)], names)


def test_preference_is_asked_of_the_attribute_that_tells_items_apart() -> None:
    n = 400
    kind, half, sku = ([str(i % k) for i in range(n)] for k in (8, 2, n))
    category, found = item_categories(items_with(shop=["x"] * n, kind=kind, sku=sku, half=half))
    assert found == 8
    assert all(len(set(category[k::8].tolist())) == 1 for k in range(8))


def test_preference_is_asked_of_items_where_no_attribute_tells_them_apart() -> None:
    assert item_categories(items_with(shop=["x"] * 5))[0].tolist() == [0, 1, 2, 3, 4]
    assert item_categories(items_with(shop=[""] * 5))[1] == 5


def test_long_texts_take_the_room_of_their_own_length() -> None:
    n, long = 200, "x" * 100_000
    events = items_with(kind=[long] + [str(i % 8) for i in range(1, n)])
    events = dataclasses.replace(events, user=np.tile(np.arange(n), 5), item=np.tile(np.arange(n), 5))
    ones = np.ones(5 * n, np.int64)
    events = dataclasses.replace(events, ts_ms=0 * ones, weight=ones, users=[f"u{i}" for i in range(n)])
    labels = UserLabels(events.users, {"name": [long] + [("odd", "even")[i % 2] for i in range(1, n)]})
    tracemalloc.start()
    try:
        tasks = event_tasks(events, labels, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # An array of them would be 80 MB.
    assert peak < 4e6
    assert tasks["name"].labels.sum(axis=0).tolist() == [100, 99]
    assert item_categories(events)[1] == 9


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
    tasks = dict(event_tasks(events, labels, cut_ms))
    tasks["preference"] = dataclasses.replace(tasks["preference"], labels=tasks["preference"].labels[:, :2])
    report = evaluate(bundle, Questions(events, tasks, cut_ms, n_seeds=1))
    assert list(report.tasks) == ["group", "churn", "preference"]
    baselines = {"bag", "item_bag", "svd_64", "svd_256", "svd_640", "sketch", "random_projection", "coles"}
    for row in report.tasks.values():
        assert set(row) == {"smen", "smen_m1", "mean_pooling", "mean_pooling_rf"} | baselines
    assert report.tasks["group"]["smen"].auc > 0.8
    assert report.tasks["churn"]["mean_pooling_rf"].auc > 0.8
    assert {report.sizes[model] for model in ("smen", "sketch", "random_projection")} == {640}


def test_a_value_that_only_users_have_who_are_not_asked_is_no_question() -> None:
    n, day = 200, MS_PER_DAY
    late = np.arange(n) >= 140
    user, one = np.repeat(np.arange(n), 6), np.ones(6 * n, np.int64)
    ts_ms = np.where(late[user], 90, np.tile(np.arange(6), n)) * day
    events = Events(user, 0 * one, ts_ms, one, [f"u{u}" for u in range(n)], ["i"], [{}])
    group = np.where(late, "late", np.where(np.arange(n) % 2, "odd", "even"))
    labels = UserLabels(events.users, {"group": group.tolist()})
    assert event_tasks(events, labels, 80 * day)["group"].labels.shape == (n, 2)
    assert event_tasks(events, labels, 91 * day)["group"].labels.shape == (n, 3)


def test_a_longer_history_tells_more(bundle: Bundle) -> None:
    events, labels = synthetic(n_users=400, n_items=200, n_groups=3, n_days=60, seed=7)
    cut_ms = default_cut(events)
    tasks = {"group": event_tasks(events, labels, cut_ms)["group"]}
    found = list(by_history(bundle, Questions(events, tasks, cut_ms, n_seeds=2)))
    assert {point.model for point in found} == {"smen", "bag", "mean_pooling_rf"}
    points = [point for point in found if point.model == "smen"]
    assert [point.x for point in points] == [7, 14, 28, 45]
    assert points[-1].cells["group"].auc > points[0].cells["group"].auc + 0.05


@pytest.mark.slow
def test_models_of_every_size_are_asked_the_same(bundle: Bundle) -> None:
    events, labels = synthetic(n_users=200, n_items=200, n_groups=3, seed=7)
    cut_ms = default_cut(events)
    tasks = {"group": event_tasks(events, labels, cut_ms)["group"]}
    points = list(by_size(bundle, Questions(events, tasks, cut_ms, n_seeds=1), sizes=(2, 10)))
    peers = {"smen", "svd", "random_projection", "sketch"}
    assert {(point.model, point.x > 128) for point in points} == {(name, large) for name in peers for large in (0, 1)}
    assert [point.x for point in points if point.model == "smen"] == [128, 640]
    assert min(point.cells["group"].auc for point in points if point.model == "smen") > 0.7


def test_features_see_no_attribute_that_was_told_after_the_cut() -> None:
    events, _ = synthetic(n_users=150, n_items=20, seed=7)
    cut_ms = default_cut(events)
    told_ms = np.where(np.arange(20) < 8, cut_ms, cut_ms - 1)
    questions = Questions(dataclasses.replace(events, attributes_ms=told_ms), {}, cut_ms)
    assert questions.before.item_attributes == [{}] * 8 + [*events.item_attributes[8:]]


def test_features_see_nothing_after_the_cut(bundle: Bundle) -> None:
    events, labels = synthetic(n_users=150, n_items=200, n_groups=3, seed=7)
    cut_ms = default_cut(events)
    tasks = event_tasks(events, labels, cut_ms)
    questions = Questions(events, tasks, cut_ms)
    assert questions.before.ts_ms.max() < cut_ms
    other = dataclasses.replace(
        questions, events=dataclasses.replace(events, item=np.where(events.ts_ms < cut_ms, events.item, 0))
    )
    for one, two in zip(
        *(
            baseline_features(q.before, item_interests(bundle, q.before), cut_ms, 64, 0).values()
            for q in (questions, other)
        ),
        strict=True,
    ):
        assert abs(one() - two()).max() == 0
