import dataclasses

import numpy as np
import pytest

from lurm_model.events import day_rows
from lurm_model.smen.config import SmenConfig
from lurm_model.training.views import Reader, epoch_views, split_views
from state.bags import sum_bags
from state.history import Rows
from state.periods import MS_PER_DAY

CONFIG = SmenConfig(n_interests=20, d_item=4, reference_day=19)
READER = Reader(CONFIG, np.ones(20, np.float32))


@pytest.fixture
def rows(rng: np.random.Generator) -> Rows:
    user, day, interest = rng.integers(0, 20, (3, 500))
    return day_rows(user, day * MS_PER_DAY, interest, rng.integers(1, 4, 500))


def total(rows: Rows, n: int) -> np.ndarray:
    dense = np.zeros((n, 20), np.int64)
    bags = sum_bags(rows.user, rows.bags, n)
    dense[bags.owners, bags.interests] = bags.counts
    return dense


def test_two_views_share_no_behaviour_and_lose_none(rows: Rows, rng: np.random.Generator) -> None:
    a, b = split_views(rows, rng)
    np.testing.assert_array_equal(total(a, 20) + total(b, 20), total(rows, 20))
    assert 0.4 < a.bags.counts.sum() / rows.bags.counts.sum() < 0.6
    for view in (a, b):
        assert (view.bags.counts > 0).all()
        assert (np.diff(view.bags.offsets) > 0).all()
        assert len(view.user) == len(view.period) == len(view.bags)


def test_the_past_and_the_future_of_a_batch_are_its_lives_cut_at_one_day(rows: Rows, rng: np.random.Generator) -> None:
    order = rng.permutation(20)
    batches = list(epoch_views(rows, order, 8, READER, rng))
    assert [views.halves[0].n_users for views in batches] == [8, 8, 4]
    for number, views in enumerate(batches):
        assert views.past is not None
        assert views.future is not None
        past, future = views.past.scales["month"], views.future.scales["month"]
        own = rows.bags.take(np.concatenate([np.flatnonzero(rows.user == u) for u in order[8 * number :][:8]]))
        sides = np.expm1(np.concatenate([past.weights, future.weights]).astype(np.float64))
        halves = np.expm1(np.concatenate([half.scales["month"].weights for half in views.halves]).astype(np.float64))
        assert sides.sum() == pytest.approx(own.counts.sum(), rel=1e-4)
        assert halves.sum() == pytest.approx(own.counts.sum(), rel=1e-4)
        # The newest day of the past is one or a few days before the cut, which is day 0 of its features.
        dates = views.past.scales["day"].features[:, -1]
        assert -np.log1p(4) < float(dates.max()) <= 0


def test_whoever_begins_after_the_cut_has_no_future_either(rng: np.random.Generator) -> None:
    day = np.array([0, 5, 19, 19, 19])
    rows = day_rows(np.array([0, 0, 0, 1, 1]), day * MS_PER_DAY, np.arange(5), np.ones(5, np.int64))
    views = next(epoch_views(rows, np.arange(2), 8, READER, rng))
    for view in (views.past, views.future):
        assert view is not None
        assert view.life.offsets.diff()[1] == 0
        assert view.life.offsets.diff()[0] > 0


def test_data_of_a_day_has_no_past(rng: np.random.Generator) -> None:
    rows = day_rows(np.array([0, 0]), np.zeros(2, np.int64), np.arange(2), np.ones(2, np.int64))
    views = next(epoch_views(rows, np.arange(1), 8, READER, rng))
    assert views.past is views.future is None
    assert len(views.batches()) == 2


def test_an_epoch_depends_on_its_generator_alone(rows: Rows) -> None:
    def weights(seed: int) -> np.ndarray:
        views = next(epoch_views(rows, np.arange(20), 32, READER, np.random.default_rng(seed)))
        return np.concatenate([batch.scales["day"].weights for batch in views.batches()])

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_other_users_do_not_change_a_view(rows: Rows) -> None:
    """Users are numbered anew, so what is drawn differs; the sums they are drawn from must not."""
    few = dataclasses.replace(READER)
    views = next(epoch_views(rows, np.array([7, 3]), 32, few, np.random.default_rng(0)))
    counts = [np.expm1(half.scales["month"].weights.numpy().astype(np.float64)).sum() for half in views.halves]
    own = rows.bags.take(np.flatnonzero(np.isin(rows.user, [3, 7]))).counts.sum()
    assert sum(counts) == pytest.approx(own, rel=1e-4)


def test_a_few_wrong_times_do_not_move_where_lives_are_cut(rng: np.random.Generator) -> None:
    user, day, interest = rng.integers(0, 20, (3, 500))
    day = np.append(day + 10_000, [0, 0])
    rows = day_rows(np.append(user, [0, 1]), day * MS_PER_DAY, np.append(interest, [0, 0]), np.ones(502, np.int64))
    for _ in range(10):
        views = next(epoch_views(rows, np.arange(20), 20, READER, rng))
        for view in (views.past, views.future):
            assert view is not None
            assert int((view.life.offsets.diff() > 0).sum()) >= 15
