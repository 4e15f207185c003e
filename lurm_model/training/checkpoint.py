"""A training's checkpoint: tensors and plain data in one file, replaced atomically and read without running code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from lurm_model.errors import CheckpointError


def save_state(path: Path | None, state: dict[str, Any]) -> None:
    """Write the state, if there is somewhere to. **Raises** `CheckpointError`: make room or name another folder."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch says a full disk as RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint cannot be written, make room or name another folder: file={path} reason={reason}"
        ) from error


def load_state(path: Path | None) -> dict[str, Any]:
    """The state, empty if there is none. **Raises** `CheckpointError`: remove the file and begin again."""
    if path is None or not path.exists():
        return {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint cannot be read, remove it to begin again: file={path} reason={reason}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint holds no training, remove it to begin again: file={path}")
    return state
