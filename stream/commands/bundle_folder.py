"""Where commands that make a bundle may write it."""

from pathlib import Path

from stream.errors import ConfigInvalid


def refuse_other_folder(out: Path) -> None:
    """Never replace a folder that is not a bundle. **Raises** `ConfigInvalid`."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file()):
        raise ConfigInvalid(f"--out is neither empty nor a bundle, choose another folder: out={out}")
