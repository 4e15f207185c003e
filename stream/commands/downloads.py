"""Where data sets stay once they were downloaded."""

import os
from pathlib import Path


def downloads() -> Path:
    """A folder in the user's cache, as the XDG base directories have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lurm-stream"
