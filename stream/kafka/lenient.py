"""Records whose headers have names that are no UTF-8, which Kafka lets a producer write, for both of our clients.

Theirs fail at such a record, and at every fetch of it again. Here what is no UTF-8 of a name is read as U+FFFD.
"""

from typing import Any

from aiokafka.record.default_records import _DefaultRecordBatchPy
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


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

    def _read_msg(self, *arguments: Any) -> Any:
        try:
            return super()._read_msg(*arguments)
        except UnicodeDecodeError:
            self._buffer: bytearray = _Lenient(self._buffer)
            return super()._read_msg(*arguments)


# kafka-python looks it up by this name and offers no other way to choose it.
memory_records.DefaultRecordBatch = KafkaPythonBatch
