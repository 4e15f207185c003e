"""Where commands write what they make: tried before the work, and told in one line when it fails after all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from stream.errors import ConfigInvalid


@contextlib.contextmanager
def write_refusals() -> Iterator[None]:
    """Whatever keeps a file from being written, as `ConfigInvalid`; a reader of our output that has gone is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigInvalid(f"cannot write, choose another place: file={error.filename} reason={reason}") from error


def refuse_other_folder(out: Path) -> None:
    """Never replace a folder that is not a bundle, nor begin where none can be made. **Raises** `ConfigInvalid`."""
    place = _resolved("--out", out)
    with write_refusals():
        is_taken = place.exists() and not (place.is_dir() and _is_empty_or_bundle(place))
    if is_taken:
        raise ConfigInvalid(f"--out is neither empty nor a bundle, choose another folder: out={out}")
    # A new bundle takes the old one's place by renaming both.
    if place.is_mount():
        raise ConfigInvalid(f"--out is a mount point, which cannot be replaced, choose a folder in it: out={out}")
    refuse_unwritable("--out", place.parent)


def refuse_unwritable_file(option: str, path: Path) -> None:
    """Whether a file can be made here or written again. **Raises** `ConfigInvalid`."""
    place = _resolved(option, path)
    # What is there already may be a device, whose folder takes no file.
    if not os.access(place, os.W_OK):
        refuse_unwritable(option, place.parent)
    if place.is_dir():
        raise ConfigInvalid(f"{option} is a folder, name a file: path={path}")


def refuse_unwritable(option: str, folder: Path) -> None:
    """Whether files can be made in this folder, or it be made. **Raises** `ConfigInvalid`."""
    place = _resolved(option, folder)
    try:
        there = next(each for each in (place, *place.parents) if each.exists())
        TemporaryDirectory(prefix=".lurm-", dir=there).cleanup()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigInvalid(f"{option} cannot be written, choose another place: {folder=!s} reason={reason}") from error


def _resolved(option: str, path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError is a loop of links
        raise ConfigInvalid(f"{option} is no path, choose another: path={path} reason={error}") from error


def _is_empty_or_bundle(folder: Path) -> bool:
    return not any(folder.iterdir()) or (folder / "manifest.json").is_file()
