import numpy as np
import pytest
import torch

from lurm_model.training.contrast import ItemPrediction, Targets, VolumePrediction, indicators, info_nce


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


def test_the_volume_of_a_batch_counts_only_against_the_rest_of_it() -> None:
    torch.manual_seed(0)
    prediction = VolumePrediction(width=3)
    flat, volume = torch.randn(6, 3), torch.tensor([0.0, 0.0, 5.0, 1.0, 0.0, 2.0])
    with torch.no_grad():
        loss = prediction(flat, volume)
        torch.testing.assert_close(prediction(flat + 1.5, volume), loss)
        prediction.head.weight.zero_()
        unknowing = prediction(flat, volume)
    assert float(unknowing) == pytest.approx(np.log(2) + 5 / 12, rel=1e-4)


def test_indicators_equal_their_definitions(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 9, 4)) + np.array([3, 0, 0, 0])
    found = indicators(torch.from_numpy(a), torch.from_numpy(b))
    na, nb = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    assert found["alignment"] == pytest.approx(np.mean([((x - y) ** 2).sum() for x, y in zip(na, nb, strict=True)]))
    apart = [((na[i] - na[j]) ** 2).sum() for i in range(9) for j in range(i)]
    assert found["uniformity"] == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(apart)))), rel=1e-5)
    share = np.linalg.eigvalsh(np.cov(na.T))
    share = share / share.sum()
    assert found["rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_indicators_tell_views_that_meet_from_vectors_that_collapse() -> None:
    torch.manual_seed(0)
    spread, collapsed = torch.randn(64, 16), torch.ones(64, 16) + 0.01 * torch.randn(64, 1)
    good, bad = indicators(spread, spread), indicators(collapsed, collapsed)
    assert good["alignment"] == bad["alignment"] == 0
    assert indicators(spread, torch.randn(64, 16))["alignment"] > 1
    assert good["uniformity"] < -2 < bad["uniformity"]
    assert bad["rank"] < 3
    assert 12 < good["rank"] <= 16
