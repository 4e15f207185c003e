"""What an erasure is: the records of the control topic, and the events that it makes a partition skip.

`lurm erase` puts a `Marker` into every control partition; the owner of the partition deletes and puts its `Answer`
behind it, in the transaction that deletes. Then it reads its store again and says what it found: `Checked`, which a
crash in between leaves unsaid. All are JSON, so that an operator can read them.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from state.errors import UNREADABLE
from state.record import PartitionRecord
from state.rows import seq_of
from stream.records.events import SourceRecord

FORMAT = 1


class Marker(Struct, frozen=True, tag="erase", tag_field="kind"):
    """Erase this user, and every event of the user below ``end_offset`` of this partition of the topic ``source_id``.

    ``embedded``: the embeddings' partition shows the user, so a tombstone is due even if no row is left.
    """

    id: str
    user: str
    end_offset: int
    embedded: bool
    requested_at_ms: int
    source_id: str = ""
    format: int = FORMAT


class Answer(Struct, frozen=True, tag="erased", tag_field="kind"):
    """What the owner of a partition removed.

    The source was applied up to ``applied_below``; of the user nothing below ``erased_below`` counts. The row's
    tombstones are the first in the changelog after ``changelog_after``.
    """

    id: str
    epoch: int
    applied_below: int
    erased_below: int
    rows: int
    marks: int
    caches: int
    changelog_after: int
    embedding_offset: int | None
    erased_at_ms: int
    format: int = FORMAT


class Checked(Struct, frozen=True, tag="checked", tag_field="kind"):
    """What the owner found of the user when it read its store again, after deleting and before any later event."""

    id: str
    rows: int
    marks: int
    caches: int
    format: int = FORMAT


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Marker | Answer | Checked)


def encode(record: Marker | Answer | Checked) -> bytes:
    """The value of a control record; its key is the id."""
    return _encoder.encode(record)


def decode(value: bytes | None) -> Marker | Answer | Checked | None:
    """What a control record says; None when it is nothing that we know."""
    try:
        record = _decoder.decode(value or b"")
    except UNREADABLE:
        return None
    return record if record.format == FORMAT else None


def erased_end(marker: Marker, record: PartitionRecord) -> int:
    """The source offset below which nothing of the user counts.

    What was applied since the marker was written is in the same rows, and goes with them. An end in a topic that was
    recreated meanwhile says nothing of the events of the new one, which are a new life.
    """
    is_other = bool(marker.source_id and record.source_id) and marker.source_id != record.source_id
    return record.next_offset if is_other else max(marker.end_offset, record.next_offset)


def still_counted(records: Sequence[SourceRecord], record: PartitionRecord) -> Sequence[SourceRecord]:
    """The source records that no erasure skips, acceptable events or not: the key says whose they are."""
    if not record.erasing:
        return records
    limits: dict[bytes | None, int] = {user.encode(): seq for user, seq in record.erasing.items()}
    get = limits.get
    return [source for source in records if seq_of(record.epoch, source.offset) >= get(source.key, 0)]
