"""Errors of the state, named by what the caller does about them."""

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


# What msgspec raises for bytes that are not the JSON it wants: no JSON, no UTF-8, nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
