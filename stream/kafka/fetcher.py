"""aiokafka's fetcher, for all consumers of the process: it reads sooner and whatever the bytes are, and it ends.

aiokafka looks its classes up by their names and offers no other way to choose them.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords

from stream.kafka.lenient import AiokafkaBatch

# A batch starts with its first offset, 8 bytes, and the length of what comes after these 12.
_LENGTH = slice(8, 12)
_LENGTH_END = 12


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Hands records over as they were parsed.

    A record has offset, timestamp, key, value and headers, and no topic or partition; aiokafka would copy each into a
    larger Python object, which costs as much as decoding the event.
    """

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator  # type: ignore[no-any-return]

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        del tp
        return record


class Batches:
    """The batches of a fetched partition, each with the bytes it was read from."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._rest = memoryview(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> "Batch":
        """The next one; there must be one."""
        size = _LENGTH_END + int.from_bytes(self._rest[_LENGTH], "big")
        raw, self._rest = self._rest[:size], self._rest[size:]
        return Batch(self._records.next_batch(), raw)


class Batch:
    """A batch that can be read though the name of a header is no UTF-8 (`stream.kafka.lenient`)."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(AiokafkaBatch(self._raw))


_close = fetcher.Fetcher.close


async def _cancel_and_close(self: Any) -> None:
    """aiokafka waits for the fetches it cancels, and would end as one that waited to try again does: cancelled."""
    for fetches in ({self._fetch_task}, self._pending_tasks):
        for fetch in fetches:
            fetch.cancel()
        if fetches:
            await asyncio.wait(set(fetches))
    self._pending_tasks.clear()
    await _close(self)


fetcher.Fetcher.close = _cancel_and_close
fetcher.PartitionRecords = PartitionRecords
fetcher.MemoryRecords = Batches
