"""A record on its way to a topic."""

from typing import Final, NamedTuple

# What a record and its batch hold beside key and value, generously.
RECORD_OVERHEAD_BYTES: Final = 256


class Outgoing(NamedTuple):
    """A record to write; a None value is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None
