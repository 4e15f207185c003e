import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lurm_model.evaluation.probe import DenseRows, SparseRows, fit, probe_auc, probe_aucs

Problem = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def problem(rng: np.random.Generator) -> Problem:
    """Correlated columns of different sizes, and a common and a rare label."""
    features = rng.normal(size=(900, 6)) @ rng.normal(size=(6, 12)) + 0.3 * rng.normal(size=(900, 12))
    logits = np.stack([features[:, 0] - 0.5 * features[:, 3], features[:, 1] - 4], axis=1)
    return features.astype(np.float32), rng.random((900, 2)) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("l2", [0.01, 0.3])
def test_the_probe_is_scikit_learns_logistic_regression(problem: Problem, l2: float) -> None:
    rows, labels = StandardScaler().fit_transform(problem[0]).astype(np.float32), problem[1]
    weights, intercept = fit(DenseRows(rows), torch.from_numpy(labels.astype(np.float32)), torch.full((2,), l2))
    for question in range(2):
        expected = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-8, max_iter=1000).fit(rows, labels[:, question])
        scores = rows @ (DenseRows(rows).axes @ weights)[:, question].numpy() + float(intercept[question])
        np.testing.assert_allclose(scores, expected.decision_function(rows), atol=0.02)


def test_so_is_the_probe_of_sparse_rows(problem: Problem) -> None:
    rows = sp.csr_matrix(np.where(problem[0] > 1, problem[0], 0) / 10)
    labels = torch.from_numpy(problem[1][:, :1].astype(np.float32))
    weights, _ = fit(SparseRows(rows), labels, torch.full((1,), 1e-3))
    expected = LogisticRegression(C=1 / (1e-3 * 900), tol=1e-8, max_iter=1000).fit(rows, problem[1][:, 0])
    np.testing.assert_allclose(weights[:, 0].numpy(), expected.coef_[0], atol=0.05)


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


def test_questions_are_answered_as_if_each_were_asked_alone(problem: Problem) -> None:
    features, labels = problem
    together = probe_aucs(features, labels, np.arange(2), seed=4)
    alone = [probe_auc(features, column, seed=4) for column in labels.T]
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_what_is_chosen_does_not_look_at_the_tested_users(rng: np.random.Generator) -> None:
    """With hundreds of random columns the best L2 by the tested users would beat chance; an honest choice does not."""
    aucs = [
        probe_auc(rng.normal(size=(400, 200)).astype(np.float32), rng.random(400) < 0.5, seed) for seed in range(12)
    ]
    assert abs(np.mean(aucs) - 0.5) < 0.05


@pytest.mark.parametrize("n_users", [0, 1, 5])
def test_too_few_users_answer_no_question(problem: Problem, n_users: int) -> None:
    features, labels = (part[:n_users] for part in problem)
    assert np.isnan(probe_aucs(features, labels, np.arange(2), seed=0)).all()
