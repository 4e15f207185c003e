"""The readout by its promises: level sums of which nothing is lost, mixed with states that weigh as much as they do."""

import numpy as np
import pytest
import torch

from lurm_model.smen import readout as module
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from lurm_model.smen.readout import CHANCE_USERS, Readout, levelling

CONFIG = SmenConfig(9, d_item=8, reference_day=0, n_vectors=5, n_recurrent=3, d_anchor=8)
N_SUMS, N_USERS = CONFIG.n_sums, 20_000


@pytest.fixture
def carried(rng: np.random.Generator) -> torch.Tensor:
    """Sums of any size, in which one taste hides the others, and states of a few directions; one unit says nothing."""
    tastes = rng.normal(size=(N_USERS, N_SUMS, 8)) * [9, 3, 1, 1, 1, 1, 1, 1]
    sums = (3 + tastes @ np.linalg.qr(rng.normal(size=(8, 8)))[0]) * rng.uniform(0.01, 10, (N_SUMS, 1))
    known = rng.normal(size=(N_USERS, 4)) * [4, 2, 1, 1]
    states = (known @ rng.normal(size=(4, 24)) + 0.01 * rng.normal(size=(N_USERS, 24))).reshape(-1, 3, 8)
    states[:, 1, 5] = 0.25
    return torch.from_numpy(np.concatenate([sums, states], axis=1)).float()


@pytest.fixture
def sums(carried: torch.Tensor) -> torch.Tensor:
    return carried[:, :N_SUMS]


def levelled(sums: torch.Tensor) -> torch.Tensor:
    """The sums of these users, by what they are themselves."""
    return torch.einsum("nai,aij->naj", sums, levelling(sums))


def fitted(carried: torch.Tensor) -> tuple[Readout, torch.Tensor]:
    """A readout of these users, and what they carry once their sums are level."""
    sums, states = carried.tensor_split([N_SUMS], dim=1)
    readout = Readout(CONFIG)
    readout.fit(states)
    return readout, torch.cat([levelled(sums), states], dim=1)


def parts(vectors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The condensed states and the sums that were mixed."""
    unmixed = np.einsum("mk,nmh->nkh", Readout(CONFIG).mixing.numpy(), vectors.numpy())
    condensed, sums = np.split(unmixed, [CONFIG.n_condensed], axis=1)
    return condensed, sums


def energies(sums: np.ndarray) -> np.ndarray:
    """The variances of the sums of each anchor along their principal axes, 1 on average."""
    found = np.stack([np.linalg.eigvalsh(np.cov(anchor)) for anchor in sums.transpose(1, 2, 0)])
    return found / found.mean(axis=1, keepdims=True)


def test_the_mixing_is_orthogonal_and_gives_every_vector_as_much_of_the_states() -> None:
    mixing = Readout(CONFIG).mixing.numpy()
    np.testing.assert_allclose(mixing @ mixing.T, np.eye(CONFIG.n_vectors), atol=1e-6)
    np.testing.assert_allclose(mixing[:, 0], CONFIG.n_vectors**-0.5, rtol=1e-6)


def test_sums_and_states_weigh_the_same_and_every_number_is_about_half_of_each(
    carried: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else one part in a hundred is put down to chance.
    monkeypatch.setattr(module, "CHANCE_USERS", 1e-6)
    readout, carried = fitted(carried)
    vectors = readout(carried)
    condensed, sums = parts(vectors)
    np.testing.assert_allclose(sums.var(axis=0).mean(axis=1), 1, rtol=1e-3)
    assert condensed.var(axis=0).sum() == pytest.approx(N_SUMS * 8, rel=1e-3)
    share = condensed.var(axis=0) / CONFIG.n_vectors / vectors.numpy().var(axis=0)
    assert 0.3 < share.min() < share.max() < 0.7


def test_the_spread_of_tastes_becomes_its_root(sums: torch.Tensor) -> None:
    before, found = energies(sums.numpy()), energies(levelled(sums).numpy())
    wanted = before / np.sqrt(before + CHANCE_USERS * 8 / N_USERS)
    np.testing.assert_allclose(found, wanted / wanted.mean(axis=1, keepdims=True), rtol=1e-3)
    assert (before[:, -1] / before[:, 0]).min() > 5 * (found[:, -1] / found[:, 0]).max()


def test_every_levelled_number_spreads_about_as_much_so_no_scaling_of_columns_undoes_it(sums: torch.Tensor) -> None:
    spread = levelled(sums).std(dim=0)
    assert 0.5 < spread.min() < spread.max() < 1.6


def test_levelled_are_the_sums_before_but_for_a_matrix_that_can_be_undone(sums: torch.Tensor) -> None:
    again = torch.einsum("nai,aij->naj", levelled(sums), torch.linalg.inv(levelling(sums)))
    torch.testing.assert_close(again, sums, rtol=1e-3, atol=1e-3)


def test_of_few_users_hardly_more_is_believed_than_how_much_there_is_of_each_sum(sums: torch.Tensor) -> None:
    level = levelling(sums[:24])
    turned = level.mT @ level
    scale = turned.diagonal(dim1=1, dim2=2).mean(dim=1)
    torch.testing.assert_close(turned / scale[:, None, None], torch.eye(8).expand(N_SUMS, -1, -1), rtol=0.2, atol=0.12)


def test_what_states_say_weakly_is_held_back_the_more_the_fewer_users_say_it(carried: torch.Tensor) -> None:
    states = carried[:, N_SUMS:]
    spectra = []
    for n_users in (N_USERS, 200):
        readout = Readout(CONFIG)
        readout.fit(states[:n_users])
        condensed = states.flatten(1) @ readout.condense
        spectra.append(np.linalg.eigvalsh(np.cov(condensed.T))[::-1])
    many, few = spectra
    assert few.sum() < 0.9 * many.sum()
    assert (few[1:4] / few[0] < 0.9 * many[1:4] / many[0]).all()


def test_in_a_network_it_is_part_of_what_interests_add_and_recurrent_anchors_stay(carried: torch.Tensor) -> None:
    smen = Smen(CONFIG)
    with torch.no_grad():
        smen.anchors.interests.normal_()
    before = smen.anchors.table()
    smen.fit_readout(carried)
    after = smen.anchors.table()
    wanted = torch.einsum("uai,aij->uaj", before[:, :N_SUMS], levelling(carried[:, :N_SUMS]))
    torch.testing.assert_close(after[:, :N_SUMS], wanted)
    torch.testing.assert_close(after[:, N_SUMS:], before[:, N_SUMS:])


def test_nothing_is_lost_of_what_the_states_mostly_say(carried: torch.Tensor) -> None:
    readout, carried = fitted(carried)
    condensed, _ = parts(readout(carried))
    known = np.append(condensed.reshape(N_USERS, -1), np.ones((N_USERS, 1)), axis=1)
    states = carried[:, N_SUMS:].flatten(1).numpy()
    guess = known @ np.linalg.lstsq(known, states, rcond=None)[0]
    assert (states - guess).var() < 1e-4 * states.var()


def test_users_who_are_few_or_alike_but_for_rounding_blow_nothing_up() -> None:
    one, drawn = torch.ones(1, CONFIG.n_anchors, 8), torch.Generator().manual_seed(0)
    two = torch.randn(2, CONFIG.n_anchors, 8, generator=drawn)
    rounded = 7 + 1e-6 * torch.randn(50, CONFIG.n_anchors, 8, generator=drawn)
    for carried in (one, one.expand(3, -1, -1), torch.zeros_like(one), two, rounded):
        readout, level = fitted(carried)
        assert readout(level).abs().max() < 50
        assert readout(torch.zeros_like(one)).abs().max() == 0
