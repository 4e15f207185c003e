"""aiokafka's fetcher, for all consumers of the process: it reads sooner and whatever the bytes are, and it ends.

What is fetched is bounded as it was sent. Here it is decompressed in pieces (`stream.kafka.batches`), and at once no
more of them than one of our batches may hold. aiokafka looks its classes up by their names and offers no other way to
choose them.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from stream.kafka.batches.lenient import AiokafkaBatch
from stream.kafka.batches.pieces import TIMES_SENT, ReadRecord, holds_too_much, is_small, pieces
from stream.records.arrival import NO_TIME_MS, UNKNOWN_EPOCH, LeftOut

# A batch starts with its first offset, 8 bytes, and the length of what comes after these 12.
_LENGTH: Final = slice(8, 12)
_LENGTH_END: Final = 12
# Where the number of its format stands, and the newest: those before it have no headers, and the oldest no times.
_MAGIC: Final = 16
# Where that of the leader's epoch does.
_EPOCH: Final = slice(12, 16)
_NEWEST: Final = 2
# Decompressed at once, over all the partitions that a consumer reads.
_TAKEN_BYTES: Final = 32 << 20


class Taken(list[Any]):
    """Records of one partition; ``to_send_on`` is how many bytes of them may be written again."""

    to_send_on = 0


class _Part(NamedTuple):
    records: list[Any]
    n_inflated_bytes: int
    to_send_on: int


_NONE: Final = _Part([], 0, 0)


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Hands records over as they were parsed, a piece at a time.

    A record has offset, timestamp, key, value and headers, and no topic or partition; aiokafka would copy each into a
    larger Python object, which costs as much as decoding the event. Invariant: ``next_fetch_offset`` is behind what
    was handed over, so whoever fetches again from there misses nothing.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._parts = self._unpack_parts()
        self._part = _NONE
        self._at = 0
        # The newest time that a broker wrote by its own clock; 0: none.
        self.broker_ms = 0
        self.exhausted = False

    def __iter__(self) -> "PartitionRecords":
        return self

    def __next__(self) -> Any:
        for record in self.take(1, 1):
            return record
        raise StopIteration

    def take(self, n_records_max: int | None, n_bytes_max: int) -> Taken:
        """The next records; at the end of them, none."""
        taken, n_bytes, wanted = Taken(), 0, n_records_max or 1 << 62
        while n_bytes < n_bytes_max and len(taken) < wanted:
            if self._at == len(self._part.records):
                self._at, self._part = 0, next(self._parts, _NONE)
                if not self._part.records:
                    self.exhausted = True
                    break
            records, n_inflated, sendable = self._part
            some = records[self._at : self._at + wanted - len(taken)]
            self._at += len(some)
            taken += some
            n_bytes += n_inflated * len(some) // len(records)
            taken.to_send_on += sendable * len(some) // len(records)
            self.next_fetch_offset = some[-1].offset + 1
        return taken

    def _unpack_parts(self) -> Iterator[_Part]:
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            self.broker_ms = max(self.broker_ms, batch.broker_ms)
            if not (self._is_aborted(batch) or batch.is_control_batch):
                for part in batch.parts():
                    if part := self._from_here(part):
                        yield part
            # Compaction may have taken the batch's last records.
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _from_here(self, part: _Part) -> _Part | None:
        """Without what is not wanted: who fetches again in the middle of a batch gets all of it."""
        first, records = self.next_fetch_offset, part.records
        if records and records[0].offset < first:
            records = [each for each in records if each.offset >= first]
        return part._replace(records=records) if records else None

    def _is_aborted(self, batch: Any) -> bool:
        """Whether these records are hidden from who reads committed ones only; as aiokafka tells it."""
        if self._isolation_level != fetcher.READ_COMMITTED or batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return bool(batch.is_transactional and batch.producer_id in self._aborted_producers)


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """What was fetched of a partition, taken so much at once as memory allows."""

    def getall(self, max_records: int | None = None) -> list[Any]:
        """The next records, at most so many."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        records: Any = self._partition_records
        taken: Taken = records.take(max_records, _TAKEN_BYTES // max(1, len(self._assignment.tps)))
        self._update_position()
        # The end of a transaction often comes alone, and aiokafka drops what has no records.
        state = self._assignment.state_value(self._topic_partition)
        state.broker_ms = max(broker_ms(state), records.broker_ms)
        if records.exhausted:
            self._partition_records: Any = None
        return taken

    def _update_position(self) -> None:
        """Say also which leaders wrote what was read: the first batch, and the last one touched."""
        super()._update_position()
        batches = self._partition_records._records  # noqa: SLF001 - ours, as below
        state = self._assignment.state_value(self._topic_partition)
        state.epochs = (batches.first_epoch, batches.last_epoch)


def broker_ms(state: Any) -> int:
    """The newest time that a broker wrote by its own clock into what was read of a partition; 0: none."""
    told: int = getattr(state, "broker_ms", 0)
    return told


class Batches:
    """The batches of a fetched partition, each with the bytes it was read from, and the leaders' epochs."""

    first_epoch = last_epoch = UNKNOWN_EPOCH

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._rest = memoryview(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> "Batch":
        """The next one; there must be one."""
        size = _LENGTH_END + int.from_bytes(self._rest[_LENGTH], "big")
        raw, self._rest = self._rest[:size], self._rest[size:]
        known = raw[_MAGIC] >= _NEWEST
        self.last_epoch = int.from_bytes(raw[_EPOCH], "big", signed=True) if known else UNKNOWN_EPOCH
        if self.first_epoch == UNKNOWN_EPOCH:
            self.first_epoch = self.last_epoch
        return Batch(self._records.next_batch(), raw)


class Batch:
    """A batch that can be read whatever it holds (`stream.kafka.batches.pieces`, `stream.kafka.batches.lenient`)."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    @property
    def broker_ms(self) -> int:
        """When a broker wrote it, by its own clock: markers of transactions, LogAppendTime. 0: not known."""
        if self._raw[_MAGIC] < _NEWEST or not (self._batch.is_control_batch or self._batch.timestamp_type):
            return 0
        return int(self._batch.max_timestamp)

    def parts(self) -> Iterator[_Part]:
        """Its records, a bounded part at a time."""
        if self._raw[_MAGIC] < _NEWEST:
            yield _Part(self._old_records(), 0, TIMES_SENT * len(self._raw))
        elif is_small(self._raw):
            yield _Part(_parsed(self._batch, self._raw), 0, len(self._raw))
        else:
            for piece in pieces(self._raw):
                if isinstance(piece.raw, ReadRecord):
                    yield _Part([piece.raw], piece.n_bytes, piece.to_send_on)
                else:
                    yield _Part(_parsed(DefaultRecordBatch(piece.raw), piece.raw), piece.n_bytes, piece.to_send_on)

    def _old_records(self) -> list[Any]:
        if holds_too_much(self._raw):
            return [ReadRecord(self._batch.next_offset - 1, NO_TIME_MS, None, LeftOut.of(len(self._raw)))]
        times = ((each, NO_TIME_MS if each.timestamp is None else each.timestamp) for each in self._batch)
        return [ReadRecord(each.offset, timestamp, each.key, each.value) for each, timestamp in times]


def _parsed(batch: Any, raw: Any) -> list[Any]:
    try:
        return list(batch)
    except UnicodeDecodeError:
        return list(AiokafkaBatch(raw))


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
fetcher.FetchResult = FetchResult
fetcher.PartitionRecords = PartitionRecords
fetcher.MemoryRecords = Batches
