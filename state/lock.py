"""One process per state folder: whoever holds the lock of the folder may open its databases, also those to come.

RocksDB locks each database that is open, but two workers on an empty folder have none open yet.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from state.errors import StoreUnavailable

_NAME: Final = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made when missing, until the block ends or the process does.

    **Raises** `StoreUnavailable` when another process holds it, or it cannot be held.
    """
    file = folder / _NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreUnavailable(f"cannot lock the state's folder: {error.strerror} path={file}") from error
    try:
        _take(descriptor, file)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace")
        raise StoreUnavailable(
            f"another process works in the state's folder: pid={holder} path={file}; every worker needs one of its own"
        ) from error
    except OSError as error:
        raise StoreUnavailable(f"cannot lock the state's folder: {error.strerror} path={file}") from error
    # For whoever is refused; a full disk is no reason not to hold it.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
