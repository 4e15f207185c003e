import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lurm_model.bundle import CODEBOOK, FILES, MANIFEST, VOCABULARY, Bundle, _serialise
from lurm_model.errors import BundleError
from lurm_model.smen.config import SIZES
from state.periods import DAY, MONTH


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_is_loaded_is_what_was_saved(bundle: Bundle, saved: Path) -> None:
    loaded = Bundle.load(saved)
    assert (loaded.model_id, loaded.space_id) == (bundle.model_id, bundle.space_id)
    assert loaded.scales == (DAY, MONTH)
    assert loaded.config == bundle.config
    assert loaded.codebook.interest_of == bundle.codebook.interest_of
    assert loaded.codebook.tokens == bundle.codebook.tokens
    for name, weights in bundle.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weights)


def test_saving_leaves_nothing_else_behind_and_replaces_an_older_bundle(bundle: Bundle, saved: Path) -> None:
    bundle.save(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]
    assert {path.name for path in saved.iterdir()} == {*FILES, "manifest.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_tampered_file_is_refused_by_name(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=name):
        Bundle.load(saved)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("of_codebook", [False, True])
def test_a_bundle_that_holds_what_is_no_number_is_neither_written_nor_loaded(
    bundle: Bundle, tmp_path: Path, number: float, *, of_codebook: bool
) -> None:
    """As a training that diverged leaves it, with hashes that fit."""
    codebook, weights = bundle.codebook, dict(bundle.weights)
    name = "centroids" if of_codebook else "scales.query"
    spoilt = (codebook.centroids if of_codebook else weights[name]).copy()
    spoilt.flat[1] = number
    if of_codebook:
        codebook = dataclasses.replace(codebook, centroids=spoilt)
    else:
        weights[name] = spoilt
    diverged = Bundle.build(bundle.config, codebook, weights, {}, {})
    with pytest.raises(BundleError, match=f"training has diverged, nothing was written: tensor={name}"):
        diverged.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "bundle").mkdir()
    files = _serialise(codebook, weights) | {"manifest.json": json.dumps(diverged.manifest).encode()}
    for file, data in files.items():
        (tmp_path / "bundle" / file).write_bytes(data)
    with pytest.raises(BundleError, match=f"holds what is no number.* tensor={name}"):
        Bundle.load(tmp_path / "bundle")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.load(saved)


def test_a_manifest_with_another_configuration_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["config"]["tau"] = 2.0
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="changed after training"):
        Bundle.load(saved)


@pytest.mark.parametrize(
    ("part", "told"), [("files", {"notes.bin": "0" * 64}), ("dims", {"n_items": 99_999_999}), ("dims", {"n_spoons": 1})]
)
def test_a_manifest_that_says_more_than_there_is_is_refused(saved: Path, part: str, told: dict[str, object]) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest[part] |= told
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="changed after training"):
        Bundle.load(saved)


# Who made a network of this size would be at it for hours.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "change",
    [{name: 10**9} for name in SIZES if name != "n_condensed"]
    + [{"n_vectors": 10**9 + 9, "n_condensed": 10**9, "n_recurrent": 10**9}],
)
def test_a_network_of_another_size_than_its_tensors_is_refused_and_not_made(
    bundle: Bundle, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = dataclasses.replace(bundle.config, **change)
    Bundle.build(config, bundle.codebook, bundle.weights, {}, {}).save(tmp_path / "b")
    with pytest.raises(BundleError, match="tensors do not fit"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "number"),
    [("tau", 0), ("tau", -1.0), ("tau", float("nan")), ("tau", True), ("reference_day", 1.5), ("n_vectors", 10.0)]
    + [(name, 0) for name in SIZES]
    + [("n_condensed", 10), ("n_condensed", 10**9)]
    + [("reference_day", 10**30), ("reference_day", -(2**62)), ("half_lives", (10**400,)), ("half_lives", (0,))],
)
def test_a_network_with_numbers_that_none_can_have_is_refused(
    bundle: Bundle, tmp_path: Path, name: str, number: Any
) -> None:
    config = dataclasses.replace(bundle.config, **{name: number})
    Bundle.build(config, bundle.codebook, bundle.weights, {}, {}).save(tmp_path / "b")
    with pytest.raises(BundleError, match=f"bundle is damaged.*{name} must be "):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("item_interests", np.zeros((2, 1), np.int32)), ("item_interests", np.zeros(2, np.float32)),
        ("items", ["a", "a"]), ("items", [1, 2]), ("items", "ab"), ("items", [["a"], ["b"]]), ("tokens", {"a": 1}),
    ],
)  # fmt: skip
def test_names_and_numbers_of_items_that_are_none_are_refused_by_bundles_whose_hashes_fit(
    saved: Path, part: str, value: Any
) -> None:
    tensors, names = load_file(saved / CODEBOOK), json.loads((saved / VOCABULARY).read_text())
    names["items"], tensors["item_interests"] = ["a", "b"], np.zeros(2, np.int32)
    if part in tensors:
        tensors[part] = value
    else:
        names[part] = value
    save_file(tensors, saved / CODEBOOK)
    (saved / VOCABULARY).write_text(json.dumps(names))
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["files"] = {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in FILES}
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="bundle is damaged"):
        Bundle.load(saved)


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="run `lurm train --events F --out DIR`"):
        Bundle.load(tmp_path / "nothing")


def test_an_unknown_format_is_named(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(BundleError, match="format_version=99") as refused:
        Bundle.load(saved)
    assert "\n" not in str(refused.value)


def test_a_new_item_changes_the_model_but_not_the_space(bundle: Bundle) -> None:
    book = dataclasses.replace(bundle.codebook, interest_of=bundle.codebook.interest_of | {"brand new": 1})
    other = Bundle.build(bundle.config, book, bundle.weights, {}, {})
    assert other.space_id == bundle.space_id
    assert other.codebook.interest_space_id == bundle.codebook.interest_space_id
    assert other.model_id != bundle.model_id


def test_added_items_are_another_model_of_the_same_spaces_and_known_items_keep_their_interest(
    bundle: Bundle, tmp_path: Path
) -> None:
    known, interest = next(iter(bundle.codebook.interest_of.items()))
    other = bundle.with_items({"brand new": 1, known: interest + 1})
    assert other.codebook.interest_of == {**bundle.codebook.interest_of, "brand new": 1}
    assert other.model_id != bundle.model_id
    assert other.space_id == bundle.space_id
    assert other.codebook.interest_space_id == bundle.codebook.interest_space_id
    other.with_items({"newer": 2}).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.codebook.interest_of["newer"] == 2
    assert loaded.manifest["training"] == {**bundle.manifest["training"], "n_items_assigned": 2}
    assert loaded.manifest["metrics"] == bundle.manifest["metrics"]


def test_other_weights_are_another_space(bundle: Bundle) -> None:
    weights = {name: array + 1 for name, array in bundle.weights.items()}
    assert Bundle.build(bundle.config, bundle.codebook, weights, {}, {}).space_id != bundle.space_id
