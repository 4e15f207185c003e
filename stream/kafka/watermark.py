"""How the changelog ends, read before a recovery: what its last partition records call published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
And what stands where a disk applied it last: if the disk holds something else, the changelog has lost its end since.

And what transactions hide that Kafka forgot to end: its coordinator calls them complete, and a partition has no marker.
A node that was stopped just after a commit was seen to leave one. Readers of committed records wait before it until a
later transaction of the same producer ends in that partition, and then it ends like that one.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY, Write
from state.store import NONE_APPLIED
from stream.kafka.clock import Clock
from stream.kafka.connection import fetched_between, reading
from stream.settings import Kafka

# Each transaction ends with its partition record, so the first look nearly always finds one.
_LOOK_BACK = (64, 4_096, 262_144)


class Newest(NamedTuple):
    """The last committed partition record of a changelog partition, where it stands, and where the partition ends.

    ``applied``: key and value of what stands where a disk is, None where compaction or a marker left nothing.
    """

    record: PartitionRecord
    offset: int
    end: int
    applied: Write | None = None


async def newest_records(
    kafka: Kafka,
    topic: str,
    numbers: Iterable[int],
    clock: Clock | None = None,
    applied: Mapping[int, int] = MappingProxyType({}),
) -> dict[int, Newest]:
    """The last committed record of each partition; one that stands too far back is missing.

    ``applied``: the offsets that disks have applied last, by partition.
    """
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
        places = {each: applied[each.partition] for each in found if applied.get(each.partition, NONE_APPLIED) >= 0}
        spans = {each: (place, place + 1) for each, place in places.items() if first[each] <= place < ends[each]}
        read = fetched_between(consumer, spans)
        there = {each: (record.key, record.value) async for each, record in read if record.offset == places[each]}
    return {
        each.partition: Newest(decode_record(last.value), last.offset, ends[each], there.get(each))
        for each, last in found.items()
    }


async def last_hidden_keys(kafka: Kafka, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, bytes | None]:
    """The partitions whose end an open transaction hides, each with the key of its last record.

    Whoever may write them transactionally has been fenced, so no transaction that is still at work is among these.
    """
    async with (
        reading(kafka, "read_uncommitted", partitions) as everything,
        reading(kafka, "read_committed", partitions) as committed,
    ):
        # In this order: a record that comes between the answers is not taken for a hidden one.
        ends = await everything.end_offsets(partitions)
        stable = await committed.end_offsets(partitions)
        hidden = [each for each in partitions if stable[each] < ends[each]]
        last: dict[TopicPartition, bytes | None] = dict.fromkeys(hidden)
        async for each, record in fetched_between(everything, {each: (stable[each], ends[each]) for each in hidden}):
            last[each] = record.key
    return last
