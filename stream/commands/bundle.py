"""`lurm bundle`: what stands in a bundle, and whether it is what was trained."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.errors import ConfigInvalid, LurmError
from stream.printable import say

if TYPE_CHECKING:
    from lurm_model.bundle import Bundle

EXAMPLES = """
\b
Examples:
  lurm bundle show bundle
  lurm bundle show bundle --json
  lurm bundle verify bundle
"""
FOLDER = click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
IDS = ("model_id", "space_id", "interest_space_id")


@click.group(epilog=EXAMPLES)
def bundle() -> None:
    """Show a bundle, or check it."""


@bundle.command(epilog=EXAMPLES)
@FOLDER
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(folder: Path, *, as_json: bool) -> None:
    """Show what a bundle is made of, what it learned from and how that went; refuses one that `verify` would."""
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import
    from lurm_model.errors import BundleError  # noqa: PLC0415

    try:
        found = _facts(folder, Bundle.load(folder))
        text = json.dumps(found) if as_json else "\n".join(_lines(found))
    except BundleError as error:
        raise ConfigInvalid(str(error)) from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:  # what no hash vouches for
        raise ConfigInvalid(f"what the manifest says of the training is damaged: bundle={folder} {error!r}") from error
    say(*text.splitlines())


@bundle.command(epilog=EXAMPLES)
@FOLDER
def verify(folder: Path) -> None:
    """Compute hashes, shapes and ids again; ends with 1 when one is not what the manifest says, 2 without a bundle."""
    from lurm_model.bundle import MANIFEST, Bundle  # noqa: PLC0415 - torch is slow to import
    from lurm_model.errors import BundleError  # noqa: PLC0415

    if not (folder / MANIFEST).is_file():
        raise ConfigInvalid(f"there is no bundle in the folder: missing={folder / MANIFEST}")
    try:
        found = Bundle.load(folder)
    except BundleError as error:
        raise LurmError(str(error)) from error
    files = found.manifest["files"]
    say(f"ok: bundle={folder} files={len(files)} model_id={found.model_id} space_id={found.space_id}")


def _facts(folder: Path, found: "Bundle") -> dict[str, Any]:
    manifest = found.manifest
    sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    own = (folder / "manifest.json").read_bytes()
    files = {name: {"bytes": sizes[name], "sha256": sha256} for name, sha256 in manifest["files"].items()}
    return {
        "bundle": str(folder),
        **{name: manifest[name] for name in IDS},
        "format_version": manifest["format_version"],
        "config": manifest["config"],
        "dims": manifest.get("dims", {}),
        "training": manifest.get("training", {}),
        "metrics": manifest.get("metrics", {}),
        "files": files | {"manifest.json": {"bytes": len(own), "sha256": hashlib.sha256(own).hexdigest()}},
    }


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"bundle      {found['bundle']} (format {found['format_version']})"
    for name in IDS:
        yield f"{name:<18}{found[name]}"
    config = {name: ",".join(value) if name == "scales" else value for name, value in found["config"].items()}
    yield f"network     {_pairs(config)}"
    yield f"codebook    {_pairs(found['dims'])}"
    training = dict(found["training"])
    options, versions = training.pop("options", {}), training.pop("versions", {})
    times = {name: _utc(training.pop(name)) for name in ("ts_ms_first", "ts_ms_last") if name in training}
    yield f"trained on  {_pairs(training)}"
    for title, facts in (("events of", times), ("options", options), ("versions", versions)):
        if facts:
            yield f"{title:<12}{' to '.join(facts.values()) if title == 'events of' else _pairs(facts)}"
    for name, values in found["metrics"].items():
        yield f"{name:<12}{' '.join(f'{value:g}' for value in values)}"
    for name, file in found["files"].items():
        yield f"{name:<24}{file['bytes']:>12} bytes  sha256 {file['sha256']}"


def _pairs(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in facts.items()) or "nothing is said"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
