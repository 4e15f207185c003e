"""What an erasure is: the records of the control topic, and what of it stays for ever in the erasures topic.

`lurm erase` puts a `Marker` into every control partition; the owner of the partition deletes and puts its `Answer`
behind it, in the transaction that deletes. Then it reads its store again and says what it found: `Checked`, which a
crash in between leaves unsaid. All are JSON, so that an operator can read them, and bounded: what is larger or names
what cannot be is no record of ours, for whoever may write to the topic could otherwise end its readers.

The same transaction writes an `Erasure` under a hash of the user into the erasures topic, whose partitions are the
source's. It outlives application, rows and markers: whoever reads the source from its first event on skips what was
erased. The hash is SHA-256 over the source's id and the user's: the same user has another in every topic, and no list
of hashes made beforehand fits. Who may read the topic can still try ids, so it is to be read by whom events are.
Refused: a secret key, whose loss would bring everybody back.
"""

from hashlib import sha256
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from state.errors import UNREADABLE
from state.rows import EPOCH_MAX
from stream.records.events import ID_BYTES_MAX, Identifier

FORMAT = 1
# A marker of the longest user, every byte of it escaped, has less than half of it.
_VALUE_BYTES_MAX: Final = 4_096
_DIGEST_BYTES: Final = 16
# The last millisecond of the year 9999: later ones are no dates.
_MS_MAX: Final = 253_402_300_799_999

Count = Annotated[int, Meta(ge=0, le=2**62)]
Milliseconds = Annotated[int, Meta(ge=0, le=_MS_MAX)]
ErasureId = Annotated[str, Meta(min_length=1, max_length=64)]
TopicId = Annotated[str, Meta(max_length=300)]


class Marker(Struct, frozen=True, tag="erase", tag_field="kind"):
    """Erase this user, and every event of the user below ``end_offset`` of this partition of the topic ``source_id``.

    ``embedded``: the embeddings' partition shows the user, so a tombstone is due even if no row is left.
    """

    id: ErasureId
    user: Identifier
    end_offset: Count
    embedded: bool
    requested_at_ms: Milliseconds
    source_id: TopicId = ""
    format: int = FORMAT


class Answer(Struct, frozen=True, tag="erased", tag_field="kind"):
    """What the owner of a partition removed.

    The source was applied up to ``applied_below``; of the user nothing below ``erased_below`` counts. The row's
    tombstones are the first in the changelog after ``changelog_after``.
    """

    id: ErasureId
    epoch: Annotated[int, Meta(ge=0, le=EPOCH_MAX)]
    applied_below: Count
    erased_below: Count
    rows: Count
    marks: Count
    caches: Count
    changelog_after: Annotated[int, Meta(ge=-1, le=2**62)]
    embedding_offset: Count | None
    erased_at_ms: Milliseconds
    format: int = FORMAT


class Checked(Struct, frozen=True, tag="checked", tag_field="kind"):
    """What the owner found of the user when it read its store again, after deleting and before any later event."""

    id: ErasureId
    rows: Count
    marks: Count
    caches: Count
    format: int = FORMAT


class Erasure(Struct, frozen=True):
    """Of the user of this record's key nothing below ``end_offset`` of this partition of ``source`` counts."""

    source: TopicId
    end_offset: Count
    erased_at_ms: Milliseconds
    format: int = FORMAT


class Known(NamedTuple):
    """An `Erasure` as it is read, with the user's hash."""

    digest: bytes
    source: str
    end_offset: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Marker | Answer | Checked)
_erasure_decoder = msgspec.json.Decoder(Erasure)


def encode(record: Marker | Answer | Checked) -> bytes:
    """The value of a control record; its key is the id."""
    return _encoder.encode(record)


def decode(value: bytes | None) -> Marker | Answer | Checked | None:
    """What a control record says; None when it is nothing that we know."""
    if value is None or len(value) > _VALUE_BYTES_MAX:
        return None
    try:
        record = _decoder.decode(value)
    except UNREADABLE:
        return None
    is_ours = record.format == FORMAT and not (isinstance(record, Marker) and not _is_user(record.user))
    return record if is_ours else None


def _is_user(user: str) -> bool:
    """Whether an event can have this id; its length in characters is known to fit."""
    try:
        return len(user.encode()) <= ID_BYTES_MAX and "\0" not in user
    except UnicodeEncodeError:
        return False


def source_of(topic_id: str, topic: str, epoch: int) -> str:
    """What tells a source topic from every other; of a broker that gives topics no id, its name and our epoch."""
    return topic_id or f"{topic}#{epoch}"


def digest_of(source: str, user: bytes) -> bytes:
    """The hash under which a user of this source is remembered as erased."""
    return sha256(source.encode() + b"\0" + user).digest()[:_DIGEST_BYTES]


def erasure_key(digest: bytes, app_id: str) -> bytes:
    """The key of an `Erasure`: the hash and the application that erased.

    Within an application ends never fall; of two, the one that is behind may write last, and would hide a higher end.
    """
    return f"{digest.hex()}:{app_id}".encode()


def encode_erasure(erasure: Erasure) -> bytes:
    """The value of a record of the erasures topic."""
    return _encoder.encode(erasure)


def decode_erasure(key: bytes | None, value: bytes | None) -> Known | None:
    """What a record of the erasures topic says; None when it is nothing that we know."""
    if key is None or value is None or len(value) > _VALUE_BYTES_MAX:
        return None
    try:
        digest = bytes.fromhex(key[: 2 * _DIGEST_BYTES].decode())
        erasure = _erasure_decoder.decode(value)
    except (ValueError, *UNREADABLE):
        return None
    if erasure.format != FORMAT or len(digest) != _DIGEST_BYTES:
        return None
    return Known(digest, erasure.source, erasure.end_offset)
