"""How the changelog ends, read before a recovery: what its last partition records call published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from stream.connection import fetch, reading
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
    wanted = list(numbers)
    if not wanted:
        return {}
    async with reading(kafka, "read_committed") as consumer:
        found = {number: await _newest(consumer, TopicPartition(topic, number)) for number in wanted}
    return {number: newest for number, newest in found.items() if newest is not None}


async def _newest(consumer: Any, partition: TopicPartition) -> Newest | None:
    consumer.assign([partition])
    first = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    for n_offsets in _LOOK_BACK:
        start = max(first, end - n_offsets)
        consumer.seek(partition, start)
        found = await _last(consumer, partition, end)
        if found is not None:
            return Newest(decode_record(found.value), found.offset, end)
        if start == first:
            break
    return None


async def _last(consumer: Any, partition: TopicPartition, end: int) -> Any:
    """The last partition record before ``end``, up to which everything can be read."""
    found = None
    while await consumer.position(partition) < end:
        records = (await fetch(consumer)).get(partition, [])
        found = next((record for record in reversed(records) if record.key == RECORD_KEY), found)
    return found
