"""Batches that Kafka lets a producer write and that our clients' own parsers fail at, at every fetch again.

Headers whose names are no UTF-8: what is none of it is read as U+FFFD. And, for kafka-python (`stream.kafka.fetcher`
for aiokafka), more than memory holds: a batch is decompressed in pieces, and a poll ends when it has read much.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from stream.kafka.batches.pieces import ReadRecord, is_small, pieces

# Records that kafka-python takes at once, and what ends a poll when they take more.
_TAKEN: Final = 500
_TAKEN_BYTES: Final = 8 << 20


class _Lenient(bytearray):
    """Bytes whose parts decode whatever they are; slow, for the rest of a batch that has such a name."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Lenient(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class AiokafkaBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # it is final, and there is no other parser
    """Aiokafka's batch in Python; its usual one, in C, cannot be changed."""

    def __iter__(self) -> "AiokafkaBatch":
        super().__iter__()
        self._buffer: bytearray = _Lenient(self._buffer)
        return self


class KafkaPythonBatch(DefaultRecordBatch):  # type: ignore[misc]
    """kafka-python's only batch."""

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__() if is_small(memoryview(self._buffer)) else self._in_pieces()

    def _in_pieces(self) -> Iterator[Any]:
        try:
            for piece in pieces(memoryview(self._buffer)):
                if isinstance(piece.raw, ReadRecord):
                    offset, timestamp, key, value, headers = piece.raw
                    yield DefaultRecord(piece.n_bytes, offset, timestamp, self.timestamp_type, key, value, headers)
                else:
                    yield from KafkaPythonBatch(piece.raw)
        except CorruptRecordException as error:
            raise CorruptRecordError(str(error)) from error

    def _read_msg(self, *arguments: Any) -> Any:
        try:
            return super()._read_msg(*arguments)
        except UnicodeDecodeError:
            self._buffer: bytearray = _Lenient(self._buffer)
            return super()._read_msg(*arguments)


_append = Fetcher._append  # noqa: SLF001 - kafka-python bounds a poll by its records alone


def _append_until_much(self: Any, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
    """As kafka-python's, which returns how many records it took of those that the poll may still take."""
    before = part.bytes_read if part else 0
    n: int = _append(self, drained, part, min(max_records, _TAKEN), update_offsets)
    return max_records if n and part.bytes_read - before > _TAKEN_BYTES else n


# kafka-python looks them up by these names and offers no other way to choose them.
memory_records.DefaultRecordBatch = KafkaPythonBatch
Fetcher._append = _append_until_much  # noqa: SLF001
