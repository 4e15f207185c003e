import numpy as np
import pytest
import torch

from lurm_model.contrast import ItemPrediction, Targets, info_nce, split_views
from lurm_model.events import day_rows
from state.bags import sum_bags
from state.history import Rows
from state.periods import MS_PER_DAY


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


def test_info_nce_equals_its_definition(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 6, 5))
    na, nb = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similarity = np.exp(na @ nb.T / 0.2)
    own = np.diag(similarity)
    expected = -(np.log(own / similarity.sum(1)) + np.log(own / similarity.sum(0))).mean() / 2
    assert float(info_nce(torch.from_numpy(a), torch.from_numpy(b), 0.2)) == pytest.approx(expected, rel=1e-6)


def test_info_nce_is_small_where_views_meet_and_ignores_length() -> None:
    a = torch.eye(8)
    assert info_nce(a, a) < 0.1 < info_nce(a, a.roll(1, 0))
    torch.testing.assert_close(info_nce(a, a * 9), info_nce(a, a))


def test_prediction_is_the_cross_entropy_of_the_other_views_items() -> None:
    torch.manual_seed(0)
    prediction = ItemPrediction(width=3, d_anchor=2, log_popularity=torch.tensor([-1.0, -2.0, -3.0, -9.0]))
    flat, vectors = torch.randn(2, 3), torch.randn(3, 2)
    targets = Targets(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([0.25, 0.75, 1.0]))
    with torch.no_grad():
        loss = prediction(flat, vectors, torch.tensor([0, 1, 2]), targets)
        logits = prediction.head(flat) @ vectors.T + torch.tensor([-1.0, -2.0, -3.0])
        p = torch.softmax(logits, dim=1)
        expected = -(0.25 * p[0, 0].log() + 0.75 * p[0, 2].log() + p[1, 1].log()) / 2
    torch.testing.assert_close(loss, expected)
