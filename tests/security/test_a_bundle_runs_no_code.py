"""A model that somebody else sent is data: nothing in our code would run it, and one that does not fit is refused."""

import ast
import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from lurm_model.bundle import FILES, MANIFEST, Bundle
from lurm_model.errors import BundleError
from tests.workers import tiny_bundle

ROOT = Path(__file__).parents[2]
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "shelve", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.jit.load", "np.load", "numpy.load", "yaml.load"}


def test_no_file_of_ours_knows_a_way_to_run_what_it_reads() -> None:
    files = [file for package in ("state", "lurm_model", "stream") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & MODULES, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in MODULES | {"pickle"}, file
            elif isinstance(node, ast.Attribute):
                # Its error is what torch's loader of plain tensors raises; nothing else of it is used.
                assert ast.unparse(node.value) != "pickle" or node.attr == "UnpicklingError", file
            elif isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, file
                assert ast.unparse(node.func) != "torch.load" or "weights_only=True" in ast.unparse(node), file


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_the_place_of_a_file_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    folder, exploded = tmp_path / "bundle", tmp_path / "exploded"
    tiny_bundle().save(folder)
    (folder / name).write_bytes(pickle.dumps(Bomb(exploded)))
    with pytest.raises(BundleError, match="not the one that was trained"):
        Bundle.load(folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="bundle is damaged"):
        Bundle.load(folder)
    assert not exploded.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"n_vectors": 10**9}, {"n_vectors": -1}, {"n_recurrent": 5}, {"n_recurrent": -1}, {"d_anchor": 0},
        {"n_interests": 10**12}, {"d_item": 9}, {"n_condensed": 3}, {"n_vectors": "many"}, {"tau": "hot"},
        {"reference_day": "today"},
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_the_tensors_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    good = tiny_bundle()
    config = dataclasses.replace(good.config, **change)
    Bundle.build(config, good.codebook, good.weights, {}, {}).save(tmp_path / "bundle")
    with pytest.raises(BundleError):
        Bundle.load(tmp_path / "bundle")
