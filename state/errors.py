"""Errors of the state, named by what the caller does about them."""

from pathlib import Path

import msgspec


class StateError(Exception):
    """Anything the state refuses or cannot do; the subclasses say what follows."""


class StoreUnavailable(StateError):
    """The store could not read or write: retry a bounded number of times, then stop the process."""


class StoreCorrupt(StateError):
    """What is stored contradicts itself: stop, wipe the partition's folder and let the changelog restore it."""


class FormatUnknown(StateError):
    """Bytes of a format version this code does not know: stop, run the version that wrote them."""


class SpaceMismatch(StateError):
    """The state was counted with another interest space or other scales: refuse it."""


def failure(doing: str, error: Exception, path: Path | None = None) -> StateError:
    """What to raise for RocksDB's own error: rocksdict has one class for all of them, and only the text tells."""
    where = "" if path is None else f" path={path}"
    text = f"cannot {doing} the database: {error}{where}"
    if str(error).startswith("Corruption"):
        return StoreCorrupt(f"{text}; remove the partition's folder and start again: the changelog restores it")
    if "lock file" in str(error):
        text += "; another process has it: every worker needs a state folder of its own"
    return StoreUnavailable(text)


# What msgspec raises for bytes that are not the JSON it wants: no JSON, no UTF-8, nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
