"""Interrupted and taken up again, stopped when it no longer helps, and refused when the checkpoint is no good."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct

from lurm_model.bundle import Bundle
from lurm_model.errors import CheckpointError
from lurm_model.evaluation.evaluate import item_interests
from lurm_model.events import Events, UserLabels, day_rows
from lurm_model.files.datasets import synthetic
from lurm_model.inference.encoder import Encoder
from lurm_model.progress import Progress, silent
from lurm_model.smen import readout
from lurm_model.training import learning
from lurm_model.training.checkpoint import save_state
from lurm_model.training.learning import LearnOptions
from lurm_model.training.train import TrainOptions, train, train_smen
from state.history import Rows, resolve


class Stopped(Exception):
    """The machine went away."""


def stop_after(step: int) -> Progress:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "SMEN" and done == step:
            raise Stopped

    return progress


@pytest.fixture
def rows(population: tuple[Events, UserLabels], bundle: Bundle) -> Rows:
    events = population[0]
    events = events.where(events.user < 100)
    return day_rows(events.user, events.ts_ms, item_interests(bundle, events)[events.item], events.weight)


@pytest.mark.slow
def test_a_training_taken_up_at_its_checkpoint_equals_one_never_interrupted(
    rows: Rows, bundle: Bundle, tmp_path: Path
) -> None:
    whole, history = train_smen(bundle.codebook, bundle.config, rows, LearnOptions(6, seed=5))
    told = LearnOptions(6, seed=5, checkpoint=tmp_path / "new" / "smen.pt")
    for step in (2, 5):
        with pytest.raises(Stopped):
            train_smen(bundle.codebook, bundle.config, rows, told, stop_after(step))
    steps: list[int] = []
    again, same = train_smen(
        bundle.codebook,
        bundle.config,
        rows,
        told,
        lambda stage, done, _: steps.append(done) if stage == "SMEN" else None,
    )
    assert steps == [5, 6]
    assert same == history
    for name, weights in whole.items():
        np.testing.assert_array_equal(again[name], weights, err_msg=name)


def test_held_out_users_end_a_training_that_no_longer_helps(
    rows: Rows, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "HELD_OUT_USERS", (1, 50))
    monkeypatch.setattr(learning, "HELD_OUT_SHARE", 0.2)
    monkeypatch.setattr(learning, "LEARNING_RATE", 0.0)
    monkeypatch.setattr(learning, "ANCHORS_LEARNING_RATE", 0.0)
    monkeypatch.setattr(learning, "STEPS_MIN", 30)
    weights, metrics = train_smen(bundle.codebook, bundle.config, rows, LearnOptions(None, seed=5))
    assert len(metrics["held_out"]) == 1 + learning.PATIENCE
    assert set(metrics) == {"loss", "held_out", "alignment", "uniformity", "rank"}
    assert np.ptp(metrics["held_out"]) < 1e-4
    assert all(np.isfinite(array).all() for array in weights.values())
    _, told = train_smen(bundle.codebook, bundle.config, rows, LearnOptions(5, seed=5))
    assert len(told["loss"]) == 5


@pytest.mark.parametrize("epochs", [0, 2])
def test_of_those_learned_from_every_number_is_half_taste_and_half_volume(
    rows: Rows, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    # Of so few users three quarters would be put down to chance.
    monkeypatch.setattr(readout, "CHANCE_USERS", 1e-6)
    weights, _ = train_smen(bundle.codebook, bundle.config, rows, LearnOptions(epochs, seed=5))
    made = Bundle.build(bundle.config, bundle.codebook, weights, {}, {})
    vectors = Encoder(made, "cpu").encode(resolve(rows, made.scales, 100), 100)
    condensed, *sums = dct(vectors, axis=1, norm="ortho").var(axis=0)
    assert condensed.sum() == pytest.approx(np.sum(sums), rel=1e-3)
    np.testing.assert_allclose(np.mean(sums, axis=1), 1, rtol=1e-3)


@pytest.mark.parametrize(("epochs", "done"), [(0, 0), (1, 1), (2, 2), (None, 4)])
def test_epochs_that_are_given_are_done_exactly_and_else_as_many_as_make_enough_steps(
    rows: Rows, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, epochs: int | None, done: int
) -> None:
    monkeypatch.setattr(learning, "STEPS_MIN", 4)
    _, history = train_smen(bundle.codebook, bundle.config, rows, LearnOptions(epochs, seed=5))
    assert len(history.get("loss", [])) == done


@pytest.mark.trains
def test_where_nobody_is_held_out_the_indicators_are_still_there(rows: Rows, bundle: Bundle) -> None:
    said: list[str] = []
    told = LearnOptions(40, seed=5)
    history = train_smen(bundle.codebook, bundle.config, rows, told, lambda stage, *_: said.append(stage))[1]
    assert set(history) == {"loss", "alignment", "uniformity", "rank"}
    assert {len(values) for values in history.values()} == {40}
    assert all(np.isfinite(values).all() for values in history.values())
    last = said[-1]
    assert last == f"epoch 40: {' '.join(f'{name}={values[-1]:.3f}' for name, values in history.items())}"


def test_trainings_share_a_folder_of_checkpoints_and_keep_out_of_each_others_way(tmp_path: Path) -> None:
    events, _ = synthetic(n_users=110, n_items=110, n_days=10, seed=2)
    options = TrainOptions(n_interests=30, epochs=0, checkpoint=tmp_path)
    seen: list[str] = []
    first = train(events, options)
    again = train(events, options, lambda stage, done, total: seen.append(stage))
    assert again.model_id == first.model_id
    assert seen == []
    assert train(events, dataclasses.replace(options, seed=6)).model_id != first.model_id
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_is_refused_in_one_line(rows: Rows, bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "smen.pt"
    file.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"remove it to begin again: file=.*smen\.pt"):
        train_smen(bundle.codebook, bundle.config, rows, LearnOptions(1, seed=5, checkpoint=file), silent)


@pytest.mark.parametrize("place", ["file/smen.pt", "folder"])
def test_a_checkpoint_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=f"name another folder: file={tmp_path / place} reason="):
        save_state(tmp_path / place, {})


@pytest.mark.parametrize("spoil", ["shape", "missing", "list"])
def test_a_checkpoint_of_another_model_or_version_is_refused_in_one_line(
    rows: Rows, bundle: Bundle, tmp_path: Path, spoil: str
) -> None:
    file = tmp_path / "smen.pt"
    told = LearnOptions(1, seed=5, checkpoint=file)
    train_smen(bundle.codebook, bundle.config, rows, told)
    state = torch.load(file, weights_only=True)
    if spoil == "shape":
        name, tensor = next((name, tensor) for name, tensor in state["objective"].items() if tensor.ndim)
        state["objective"][name] = tensor[:1]
    elif spoil == "missing":
        del state["optimiser"]
    torch.save([state] if spoil == "list" else state, file)
    with pytest.raises(CheckpointError, match=r"remove it to begin again: file=.*smen\.pt") as refused:
        train_smen(bundle.codebook, bundle.config, rows, told)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_whose_codebook_is_damaged_is_refused(tmp_path: Path) -> None:
    events, _ = synthetic(n_users=110, n_items=110, n_days=10, seed=2)
    options = TrainOptions(n_interests=30, epochs=0, checkpoint=tmp_path)
    train(events, options)
    (codebook,) = tmp_path.glob("*/codebook/vocabulary.json")
    codebook.write_text("{}")
    with pytest.raises(CheckpointError, match="remove it to begin again: folder="):
        train(events, options)
