"""The readout by its promises: it mixes without loss, and after fitting both paths weigh the same in every number."""

import numpy as np
import pytest
import torch

from lurm_model.config import SmenConfig
from lurm_model.readout import Readout

CONFIG = SmenConfig(9, d_item=8, reference_day=0, n_vectors=5, n_recurrent=3, d_anchor=8)
N_SUMS, N_USERS = CONFIG.n_sums, 4_000


@pytest.fixture
def carried(rng: np.random.Generator) -> torch.Tensor:
    """Sums of any size, and states in which a few directions say nearly everything, one unit nothing."""
    sums = rng.normal(3, 1, (N_USERS, N_SUMS, 8)) * rng.uniform(0.01, 10, (N_SUMS, 8))
    known = rng.normal(size=(N_USERS, 4)) * [4, 2, 1, 1]
    states = (known @ rng.normal(size=(4, 24)) + 0.01 * rng.normal(size=(N_USERS, 24))).reshape(-1, 3, 8)
    states[:, 1, 5] = 0.25
    return torch.from_numpy(np.concatenate([sums, states], axis=1)).float()


@pytest.fixture
def readout(carried: torch.Tensor) -> Readout:
    made = Readout(CONFIG)
    made.fit(carried)
    return made


def parts(vectors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The condensed states and the scaled sums that were mixed."""
    unmixed = np.einsum("mk,nmh->nkh", Readout(CONFIG).mixing.numpy(), vectors.numpy())
    return np.split(unmixed, [CONFIG.n_condensed], axis=1)


def test_the_mixing_is_orthogonal_and_gives_every_vector_as_much_of_the_states() -> None:
    mixing = Readout(CONFIG).mixing.numpy()
    np.testing.assert_allclose(mixing @ mixing.T, np.eye(CONFIG.n_vectors), atol=1e-6)
    np.testing.assert_allclose(mixing[:, 0], CONFIG.n_vectors**-0.5, rtol=1e-6)


def test_sums_and_states_weigh_the_same_and_every_number_is_about_half_of_each(
    readout: Readout, carried: torch.Tensor
) -> None:
    vectors = readout(carried)
    condensed, sums = parts(vectors)
    np.testing.assert_allclose(sums.std(axis=0), 1, rtol=1e-3)
    assert condensed.var(axis=0).sum() == pytest.approx(N_SUMS * 8, rel=1e-3)
    share = condensed.var(axis=0) / CONFIG.n_vectors / vectors.numpy().var(axis=0)
    assert 0.3 < share.min() < share.max() < 0.7


def test_nothing_is_lost_of_what_the_states_mostly_say(readout: Readout, carried: torch.Tensor) -> None:
    condensed, _ = parts(readout(carried))
    known = np.append(condensed.reshape(N_USERS, -1), np.ones((N_USERS, 1)), axis=1)
    states = carried[:, N_SUMS:].flatten(1).numpy()
    guess = known @ np.linalg.lstsq(known, states, rcond=None)[0]
    assert (states - guess).var() < 1e-4 * states.var()


def test_users_who_are_all_alike_or_few_give_numbers() -> None:
    readout = Readout(CONFIG)
    one = torch.ones(1, CONFIG.n_anchors, 8)
    for carried in (one, one.expand(3, -1, -1), torch.zeros_like(one), torch.randn(2, CONFIG.n_anchors, 8)):
        readout.fit(carried)
        assert readout(carried).isfinite().all()
        assert readout(torch.zeros_like(one)).abs().max() == 0
