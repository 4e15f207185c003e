"""A bundle: the folder that is a model. ``manifest.json`` vouches for every other file by its hash.

Files: ``codebook.safetensors`` and ``vocabulary.json`` (item and token names, in the order of the tensors' rows),
``smen.safetensors``. A bundle in memory is immutable, and saving it is atomic.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lurm_model.errors import BundleError
from lurm_model.interests.codebook import Codebook, content_id
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.periods import Scale

# 2: days after the training's last are read as the last. 3: some sums over the life fade. 4: the recurrence is told of
# active days. 5: a readout makes the vectors of what the anchors carry. 6: what levels the sums is in the projections.
FORMAT_VERSION = 6
MANIFEST = "manifest.json"
CODEBOOK = "codebook.safetensors"
VOCABULARY = "vocabulary.json"
SMEN = "smen.safetensors"
FILES = (CODEBOOK, VOCABULARY, SMEN)
CODEBOOK_TENSORS = ("centroids", "idf", "token_vectors")
TRAIN_HINT = "run `lurm train --events F --out DIR`"
# What reading bytes that nobody of us wrote may raise, hashes that fit or not.
_DAMAGED = (AttributeError, KeyError, OverflowError, RecursionError, SafetensorError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model. Invariant: ``manifest`` describes exactly this codebook, configuration and these weights."""

    config: SmenConfig
    codebook: Codebook
    weights: Mapping[str, NDArray[np.float32]]
    manifest: Mapping[str, Any]

    @property
    def model_id(self) -> str:
        """Names everything that defines the model."""
        return str(self.manifest["model_id"])

    @property
    def space_id(self) -> str:
        """Names the vector space: vectors are comparable within one; assigning new items does not change it."""
        return str(self.manifest["space_id"])

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The scales the model reads, finest first."""
        return self.config.scale_objects

    @property
    def learned_until_ms(self) -> int | None:
        """The time of the newest event it learned from, Unix milliseconds; None if the manifest does not say."""
        training = self.manifest.get("training")
        last = training.get("ts_ms_last") if isinstance(training, dict) else None
        return last if type(last) is int else None

    def smen(self) -> Smen:
        """The network with this bundle's weights, on the CPU."""
        smen = Smen(self.config)
        smen.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.weights.items()})
        return smen

    @classmethod
    def build(
        cls,
        config: SmenConfig,
        codebook: Codebook,
        weights: Mapping[str, NDArray[np.float32]],
        training: Mapping[str, Any],
        metrics: Mapping[str, Any],
    ) -> "Bundle":
        """A bundle of these parts, with the manifest that describes them."""
        hashes = {name: _sha256(data) for name, data in _serialise(codebook, weights).items()}
        manifest = {
            "format_version": FORMAT_VERSION,
            **_ids(config, codebook, hashes),
            "config": config.to_json(),
            "dims": _dims(codebook),
            "files": hashes,
            "training": dict(training),
            "metrics": dict(metrics),
        }
        return cls(config, codebook, weights, manifest)

    def with_items(self, interest_of: Mapping[str, int]) -> "Bundle":
        """The same model with these items added: another ``model_id``, the same spaces; known items keep theirs."""
        codebook = replace(self.codebook, interest_of={**interest_of, **self.codebook.interest_of})
        n_new = len(codebook.interest_of) - len(self.codebook.interest_of)
        training = dict(self.manifest.get("training", {}))
        training["n_items_assigned"] = training.get("n_items_assigned", 0) + n_new
        return self.build(self.config, codebook, self.weights, training, self.manifest.get("metrics", {}))

    def save(self, path: Path) -> None:
        """Write the folder; it appears whole or not at all, and replaces what was there.

        **Raises** ``OSError``, and `BundleError` for a model whose training has diverged.
        """
        path = Path(path).resolve()
        if tensor := _not_finite(self.codebook, self.weights):
            raise BundleError(
                f"the training has diverged, nothing was written: tensor={tensor} path={path}; train again, at a lower "
                "learning rate or on other events"
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        temporary.mkdir(parents=True)
        try:
            for name, data in _serialise(self.codebook, self.weights).items():
                _write(temporary / name, data)
            _write(temporary / MANIFEST, json.dumps(self.manifest, indent=2).encode())
            _replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Read and verify a folder. **Raises** `BundleError`; its message says what to do."""
        path = Path(path)
        manifest = _read_manifest(path)
        data = {name: _read_verified(path, name, manifest) for name in FILES}
        try:
            config = SmenConfig.from_json(manifest["config"])
            codebook = _deserialise_codebook(data[CODEBOOK], json.loads(data[VOCABULARY]))
            ids = _ids(config, codebook, manifest["files"])
            weights = load_tensors(data[SMEN])
        except _DAMAGED as error:
            raise BundleError(f"bundle is damaged, {TRAIN_HINT} again: path={path} reason={error!r}") from error
        described = ids | {"dims": _dims(codebook)}
        changed = [name for name, value in described.items() if manifest.get(name) != value]
        if changed or set(manifest["files"]) != set(FILES):
            raise BundleError(f"bundle's manifest was changed after training, {TRAIN_HINT} again: path={path}")
        _refuse_misfit(path, config, codebook, weights)
        if tensor := _not_finite(codebook, weights):
            raise BundleError(f"bundle holds what is no number, {TRAIN_HINT} again: path={path} tensor={tensor}")
        return cls(config, codebook, weights, manifest)


def _ids(config: SmenConfig, codebook: Codebook, hashes: Mapping[str, str]) -> dict[str, str]:
    constants = json.dumps(config.to_json(), sort_keys=True).encode()
    space = content_id(constants, hashes[SMEN].encode(), codebook.interest_space_id.encode(), codebook.idf.tobytes())
    return {
        "model_id": content_id(constants, *(hashes[name].encode() for name in FILES)),
        "space_id": space,
        "interest_space_id": codebook.interest_space_id,
    }


def _dims(codebook: Codebook) -> dict[str, int]:
    return {
        "n_clusters": codebook.n_clusters,
        "n_items": len(codebook.interest_of),
        "n_tokens": len(codebook.tokens),
    }


def _serialise(codebook: Codebook, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, bytes]:
    tensors = {
        "centroids": codebook.centroids,
        "idf": codebook.idf,
        "item_interests": np.fromiter(codebook.interest_of.values(), np.int32, len(codebook.interest_of)),
        "token_vectors": codebook.token_vectors,
    }
    names = {"items": list(codebook.interest_of), "tokens": list(codebook.tokens)}
    return {
        CODEBOOK: save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}),
        VOCABULARY: json.dumps(names, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        SMEN: save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in weights.items()}),
    }


def _deserialise_codebook(tensor_bytes: bytes, names: Mapping[str, list[str]]) -> Codebook:
    tensors = load_tensors(tensor_bytes)
    interests = tensors["item_interests"]
    if interests.dtype.kind not in "iu" or interests.ndim != 1:
        raise TypeError("item_interests must be whole numbers, one an item")
    for kind, given in names.items():
        if (
            not isinstance(given, list)
            or len({*given}) != len(given)
            or not all(isinstance(name, str) for name in given)
        ):
            raise TypeError(f"{kind} must be different texts")
    return Codebook(
        interest_of=dict(zip(names["items"], interests.tolist(), strict=True)),
        centroids=tensors["centroids"],
        idf=tensors["idf"],
        tokens={token: row for row, token in enumerate(names["tokens"])},
        token_vectors=tensors["token_vectors"],
    )


def _not_finite(codebook: Codebook, weights: Mapping[str, NDArray[np.float32]]) -> str:
    """The first tensor with NaN or infinity in it; empty as it should be."""
    tensors = {name: getattr(codebook, name) for name in CODEBOOK_TENSORS} | dict(weights)
    return next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), "")


def _refuse_misfit(
    path: Path, config: SmenConfig, codebook: Codebook, weights: Mapping[str, NDArray[np.float32]]
) -> None:
    """**Raises** `BundleError` unless every tensor has the shape and type that the configuration asks for."""
    n_clusters, n_tokens = len(codebook.centroids), len(codebook.tokens)
    wanted = {
        "centroids": (n_clusters, config.d_item),
        "idf": (config.n_interests,),
        "token_vectors": (n_tokens, config.d_item),
    }
    misfit = BundleError(f"bundle's tensors do not fit its configuration, {TRAIN_HINT} again: path={path}")
    sizes = {
        "anchors.anchors": (config.n_anchors, config.d_anchor),
        "scales.query": (len(config.scales), config.n_recurrent, config.d_anchor),
        "readout.condense": (config.n_recurrent * config.d_anchor, config.n_condensed * config.d_anchor),
    }
    if any(name not in weights or weights[name].shape != size for name, size in sizes.items()):
        raise misfit
    try:
        # Neither time nor memory is taken for what only a manifest claims.
        with torch.device("meta"):
            wanted |= {name: tuple(tensor.shape) for name, tensor in Smen(config).state_dict().items()}
    except (RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"bundle's configuration is none, {TRAIN_HINT} again: path={path} reason={error}") from error
    tensors = {name: getattr(codebook, name) for name in CODEBOOK_TENSORS} | dict(weights)
    found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == np.float32}
    numbers = range(config.n_interests)
    if found != wanted or n_clusters + 1 != config.n_interests or not set(codebook.interest_of.values()) <= {*numbers}:
        raise misfit


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError(f"no bundle, {TRAIN_HINT}: path={path}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"folder is not a bundle, {TRAIN_HINT}: missing={path / MANIFEST}") from error
    except (OSError, RecursionError, ValueError) as error:
        raise BundleError(f"bundle's manifest cannot be read, {TRAIN_HINT} again: path={path / MANIFEST}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        hint = "use the release that wrote it or train again"
        raise BundleError(f"bundle has an unknown format, {hint}: format_version={version} known={FORMAT_VERSION}")
    return dict(manifest)


def _read_verified(path: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    try:
        data = (path / name).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle is incomplete, copy it again or {TRAIN_HINT}: missing={path / name}") from error
    files = manifest.get("files")
    if not isinstance(files, dict) or files.get(name) != _sha256(data):
        raise BundleError(
            f"bundle's file is not the one that was trained, copy it again or {TRAIN_HINT}: file={path / name}"
        )
    return data


def _replace(source: Path, target: Path) -> None:
    """Rename a folder over another; a folder cannot be replaced in one step, so the old one steps aside first."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
