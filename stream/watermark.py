"""How the changelog ends, read before a recovery: what its last partition records call published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from stream.connection import assign_paused, fetched_until, reading
from stream.settings import Kafka

# Each transaction ends with its partition record, so the first look nearly always finds one.
_LOOK_BACK = (64, 4_096, 262_144)


class Newest(NamedTuple):
    """The last committed partition record of a changelog partition, where it stands, and where the partition ends."""

    record: PartitionRecord
    offset: int
    end: int


async def newest_records(kafka: Kafka, topic: str, numbers: Iterable[int]) -> dict[int, Newest]:
    """The last committed record of each partition; one that stands too far back is missing."""
    partitions = [TopicPartition(topic, number) for number in numbers]
    if not partitions:
        return {}
    async with reading(kafka, "read_committed") as consumer:
        first = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        assign_paused(consumer, ends)
        found = {each.partition: await _newest(consumer, each, first[each], ends[each]) for each in partitions}
    return {number: newest for number, newest in found.items() if newest is not None}


async def _newest(consumer: Any, partition: TopicPartition, first: int, end: int) -> Newest | None:
    for n_offsets in _LOOK_BACK:
        start = max(first, end - n_offsets)
        found = None
        async for record in fetched_until(consumer, partition, start, end):
            found = record if record.key == RECORD_KEY else found
        if found is not None:
            return Newest(decode_record(found.value), found.offset, end)
        if start == first:
            break
    return None
