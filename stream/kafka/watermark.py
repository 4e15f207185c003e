"""How the changelog ends, read before a recovery: what its last partition records call published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from stream.kafka.clock import Clock
from stream.kafka.connection import fetched_between, reading
from stream.settings import Kafka

# Each transaction ends with its partition record, so the first look nearly always finds one.
_LOOK_BACK = (64, 4_096, 262_144)


class Newest(NamedTuple):
    """The last committed partition record of a changelog partition, where it stands, and where the partition ends."""

    record: PartitionRecord
    offset: int
    end: int


async def newest_records(
    kafka: Kafka, topic: str, numbers: Iterable[int], clock: Clock | None = None
) -> dict[int, Newest]:
    """The last committed record of each partition; one that stands too far back is missing."""
    partitions = [TopicPartition(topic, number) for number in numbers]
    if not partitions:
        return {}
    found: dict[TopicPartition, Any] = {}
    async with reading(kafka, "read_committed", partitions) as consumer:
        first = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        for n_offsets in _LOOK_BACK:
            wanted = [each for each in partitions if each not in found]
            spans = {each: (max(first[each], ends[each] - n_offsets), ends[each]) for each in wanted}
            read = fetched_between(consumer, spans, clock)
            found |= {each: record async for each, record in read if record.key == RECORD_KEY}
    return {each.partition: Newest(decode_record(last.value), last.offset, ends[each]) for each, last in found.items()}
