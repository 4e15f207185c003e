"""Transactions that Kafka forgot to end: its coordinator calls them complete, and a partition has no marker.

A node that was stopped just after a commit was seen to leave one. Readers of committed records wait before it until a
later transaction of the same producer ends in that partition, and then it ends like that one.
"""

from collections.abc import Sequence

from aiokafka import TopicPartition

from stream.kafka.connection import fetched_between, reading
from stream.settings import Kafka


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
