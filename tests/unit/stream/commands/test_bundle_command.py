"""`lurm bundle`: what it shows is what the folder holds, and a bundle that is not what was trained is found out."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lurm_model.bundle import FILES, Bundle
from lurm_model.files.datasets import synthetic
from lurm_model.training.train import TrainOptions, train
from stream.cli import run
from stream.testing.bundle import tiny_bundle


@pytest.fixture(scope="module")
def trained() -> Bundle:
    events, _ = synthetic(n_users=110, n_items=110, n_days=10, seed=2)
    return train(events, TrainOptions(n_interests=20, epochs=2, device="cpu"))


@pytest.fixture
def folder(trained: Bundle, tmp_path: Path) -> Path:
    trained.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_json_holds_ids_sizes_training_and_the_hashes_of_the_files_that_are_there(
    folder: Path, trained: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bundle", "show", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model_id"], found["space_id"]) == (trained.model_id, trained.space_id)
    assert found["dims"]["n_clusters"] == trained.codebook.n_clusters
    assert found["training"]["options"]["epochs"] == 2
    assert found["training"]["device"] == "cpu"
    assert {"torch", "lurm-stream", "python"} <= set(found["training"]["versions"])
    assert len(found["metrics"]["loss"]) == 2
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found["files"] == {
        name: {"bytes": len(data[name]), "sha256": hashlib.sha256(data[name]).hexdigest()}
        for name in (*FILES, "manifest.json")
    }


def test_the_summary_names_model_scales_dates_and_losses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "show", str(folder)]) == 0
    text = capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model_id"] in text
    assert "scales=day,month" in text
    first, last = (manifest["training"][name] // 1000 for name in ("ts_ms_first", "ts_ms_last"))
    days = [datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for second in (first, last)]
    assert f"events of   {days[0]} to {days[1]}\n" in text
    assert f"loss        {manifest['metrics']['loss'][0]:g} " in text


def test_a_bundle_without_a_training_is_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle().save(tmp_path / "b")
    assert run(["bundle", "show", str(tmp_path / "b")]) == 0
    assert "trained on  nothing is said" in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", [[], {"ts_ms_last": "soon"}, {"options": 1}, {"ts_ms_first": 10**30}])
def test_a_spoilt_account_of_the_training_is_a_clear_error(
    folder: Path, spoilt: object, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"training": spoilt}))
    assert run(["bundle", "show", str(folder)]) in {0, 2}
    assert Bundle.load(folder).learned_until_ms in {None, manifest["training"]["ts_ms_last"]}


def test_a_whole_bundle_is_verified_in_one_line_also_when_settings_are_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_COLOUR", "red")
    assert run(["bundle", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_one_changed_byte_in_any_file_ends_verify_with_one(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / name).read_bytes()
    place = data.index(b'"tau": 1') + 7 if name == "manifest.json" else len(data) // 2
    (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
    assert run(["bundle", "verify", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("error: bundle")
    assert run(["bundle", "show", str(folder)]) == 2


@pytest.mark.parametrize(("part", "told"), [("files", {"notes.bin": "0" * 64}), ("dims", {"n_items": 99_999_999})])
def test_a_manifest_that_says_more_than_there_is_ends_verify_with_one_and_show_with_two(
    folder: Path, part: str, told: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[part] |= told
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert [run(["bundle", command, str(folder)]) for command in ("verify", "show")] == [1, 2]
    assert capsys.readouterr().err.count("changed after training") == 2


@pytest.mark.parametrize("command", ["show", "verify"])
def test_no_bundle_is_misuse(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert run(["bundle", command, str(folder)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert run(["bundle", "fly"]) == 2
