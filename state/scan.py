"""Reading with an iterator: one that meets a damaged block only stops, and says why to nobody who does not ask."""

from collections.abc import Iterator
from typing import Any

from state.errors import failure


def scan(iterator: Any, first: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """The entries from ``first`` on, all or those before ``after``. **Raises** as `check_read`."""
    iterator.seek(first)
    while (key := iterator.key()) is not None:
        if after is not None and key >= after:
            return
        yield key, iterator.value()
        iterator.next()
    check_read(iterator)


def check_read(iterator: Any) -> None:
    """Ask an iterator that is not valid whether this is the end, or the next entry could not be read.

    **Raises** `StoreCorrupt` for a damaged file, `StoreUnavailable` for a disk that does not answer.
    """
    try:
        iterator.status()
    except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB says
        raise failure("read", error) from error
