"""A batch of Kafka's newest format as uncompressed batches of bounded size, each made when it is asked for.

What one batch holds is bounded by nothing but what it takes compressed. So it is decompressed a piece at a time, each
of whole records; a record larger than any that is meant is left out, and one without its value stands in its place.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint

from stream.kafka.batches.inflate import Read, inflated
from stream.records.arrival import LeftOut

# A piece ends with the record that makes it as large, or as long. Producers' batches are nearly always smaller.
PIECE_BYTES: Final = 2 << 20
PIECE_RECORDS: Final = 20_000
# No record is read that takes more; the largest row, of a million interests, takes 8 MiB.
RECORD_BYTES_MAX: Final = 32 << 20
# What is read of one that is left out, for its key.
_HEAD_BYTES: Final = 1 << 16
_VARINT_BYTES_MAX: Final = 10
# Of batches that hold less than this many times what was sent everything may be sent on.
TIMES_SENT: Final = 100

# Base offset, length of what follows, leader epoch, magic, crc; attributes, last offset's distance, first and newest
# time; producer, its epoch and sequence; number of records.
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH, _ATTRIBUTES, _N_RECORDS = 1, 5, 12
_LENGTH_END: Final = 12
_CODEC: Final = 0x07
# In the formats before, and where the key begins in each.
_OLD_MAGIC, _OLD_ATTRIBUTES, _OLD_KEY = 16, 17, (18, 26)
_SIZE: Final = struct.Struct(">i")
_APPEND_TIME: Final = 0x08


class ReadRecord(NamedTuple):
    """A record that no parser made."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Piece(NamedTuple):
    """A part of a batch: an uncompressed batch, or the one record that stands for what was left out.

    ``n_bytes`` is what it takes, ``to_send_on`` how much of that may be written again: what somebody sends as 70 kB
    must not become gigabytes elsewhere.
    """

    raw: bytes | ReadRecord
    n_bytes: int
    to_send_on: int


def holds_too_much(old: memoryview) -> bool:
    """Whether a batch of one of the formats before, which is not read in pieces, is larger than any record may be."""
    codec = old[_OLD_ATTRIBUTES] & _CODEC
    if not codec:
        return False
    at = _OLD_KEY[old[_OLD_MAGIC]]
    (n_key,) = _SIZE.unpack_from(old, at)
    read = inflated(codec, old[at + _SIZE.size + max(n_key, 0) + _SIZE.size :])
    return all(len(read(PIECE_BYTES)) == PIECE_BYTES for _ in range(RECORD_BYTES_MAX // PIECE_BYTES))


def is_small(raw: memoryview) -> bool:
    """Whether a batch is a piece as it stands."""
    header = _HEADER.unpack_from(raw)
    return not header[_ATTRIBUTES] & _CODEC and header[_N_RECORDS] <= PIECE_RECORDS


def pieces(raw: memoryview) -> Iterator[Piece]:
    """The batch with these bytes in pieces. **Raises** `CorruptRecordException`."""
    sendable = TIMES_SENT * len(raw)
    for part, n_bytes in _Cutter(raw).parts():
        yield Piece(part, n_bytes, min(n_bytes, sendable))
        sendable = max(0, sendable - n_bytes)


class _Cutter:
    """Reads a batch and cuts it between records."""

    def __init__(self, raw: memoryview) -> None:
        self._header = _HEADER.unpack_from(raw)
        codec = self._header[_ATTRIBUTES] & _CODEC
        self._read: Read = inflated(codec, raw[_HEADER.size :])
        self._n_bytes_sent = len(raw)
        self._held = bytearray()
        # Where in what is held the record begins that is looked at.
        self._at = 0

    def parts(self) -> Iterator[tuple[bytes | ReadRecord, int]]:
        """All there is, in order, and how much each part takes."""
        left = self._header[_N_RECORDS]
        if left <= PIECE_RECORDS and self._is_all():
            yield self._batch(self._held, left), len(self._held)
            return
        while left:
            n = 0
            while n < min(left, PIECE_RECORDS) and self._at < PIECE_BYTES:
                self._at, n_small = _small_records(self._held, self._at, min(left, PIECE_RECORDS) - n)
                n += n_small
                if n_small:
                    continue
                size = self._size()
                if size > RECORD_BYTES_MAX:
                    break
                self._at += size
                n += 1
            if n:
                cut = self._held[: self._at]
                yield self._batch(cut, n), len(cut)
            else:
                size = self._size()
                yield self._left_out(size), _HEAD_BYTES
                n = 1
            left -= n
            del self._held[: self._at]
            self._at = 0
        if self._held or self._read(1):
            raise CorruptRecordException("bytes are left after all records of a batch")

    def _is_all(self) -> bool:
        """Whether the whole batch is one piece; most hold a few times what was sent."""
        self._held += self._read(min(PIECE_BYTES, 16 * self._n_bytes_sent) + 1)
        if len(self._held) <= PIECE_BYTES:
            self._held += self._read(PIECE_BYTES + 1 - len(self._held))
        return len(self._held) <= PIECE_BYTES

    def _size(self) -> int:
        """What the next record takes, its length included; it is held unless that is too much."""
        if len(self._held) < self._at + _VARINT_BYTES_MAX:
            self._held += self._read(PIECE_BYTES)
        held, at = self._held, self._at
        try:
            length, begin = decode_varint(held, at)
        except (IndexError, ValueError) as error:
            raise CorruptRecordException(f"a record has no length: {error!r}") from error
        if length <= 0:
            raise CorruptRecordException(f"a record has no such length: bytes={length}")
        size = int(begin + length - at)
        while size <= RECORD_BYTES_MAX and len(held) < at + size:
            more = self._read(max(PIECE_BYTES, at + size - len(held)))
            if not more:
                raise CorruptRecordException("a batch ends in the middle of a record")
            held += more
        return size

    def _left_out(self, size: int) -> ReadRecord:
        """The next record without its value; what is held is then what comes after it."""
        if len(self._held) < _HEAD_BYTES:
            self._held += self._read(_HEAD_BYTES)
        record = _without_value(self._header, self._held, size)
        missing = size - len(self._held)
        self._at = min(size, len(self._held))
        while missing > 0:
            skipped = len(self._read(min(missing, PIECE_BYTES)))
            if not skipped:
                raise CorruptRecordException("a batch ends in the middle of a record")
            missing -= skipped
        return record

    def _batch(self, records: bytearray, n: int) -> bytes:
        header = list(self._header)
        header[_LENGTH] = _HEADER.size - _LENGTH_END + len(records)
        header[_ATTRIBUTES] &= ~_CODEC
        header[_N_RECORDS] = n
        return _HEADER.pack(*header) + records


def _small_records(held: bytearray, at: int, n_max: int) -> tuple[int, int]:
    """Where the held records end whose lengths take one or two bytes, as most do, and how many they are."""
    n, n_held, end = 0, len(held), min(len(held) - _VARINT_BYTES_MAX, PIECE_BYTES)
    while n < n_max and at < end:
        first, second = held[at], held[at + 1]
        size = (first >> 1) + 1 if first < 0x80 else (((first & 0x7F) | second << 7) >> 1) + 2
        # Nothing and less than nothing is no length; more than two bytes, or more than is held, is for others.
        if not first or first & 1 or (first >= 0x80 and second >= 0x80) or at + size > n_held:
            break
        at += size
        n += 1
    return at, n


def _without_value(header: tuple[int, ...], head: bytearray, size: int) -> ReadRecord:
    base, attributes, first_ms, newest_ms = header[0], header[_ATTRIBUTES], header[7], header[8]
    _, at = decode_varint(head, 0)
    since_first_ms, at = decode_varint(head, at + 1)
    distance, at = decode_varint(head, at)
    n_key, at = decode_varint(head, at)
    key = bytes(head[at : at + n_key]) if 0 <= n_key <= _HEAD_BYTES - at else None
    timestamp = newest_ms if attributes & _APPEND_TIME else first_ms + since_first_ms
    return ReadRecord(base + distance, timestamp, key, LeftOut.of(size))
