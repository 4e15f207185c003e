"""Transactions that Kafka forgot to end: its coordinator calls them complete, and a partition has no marker.

A node that was stopped just after a commit was seen to leave one. Readers of committed records wait before it until a
later transaction of the same producer ends in that partition, and then it ends like that one.
"""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.connection import aiokafka_arguments, fetch
from stream.settings import Kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def last_hidden_keys(kafka: Kafka, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, bytes | None]:
    """The partitions whose end an open transaction hides, each with the key of its last record.

    Whoever may write them transactionally has been fenced, so no transaction that is still at work is among these.
    """
    async with _consumer(kafka, "read_uncommitted") as everything, _consumer(kafka, "read_committed") as committed:
        # In this order: a record that comes between the answers is not taken for a hidden one.
        ends = await everything.end_offsets(partitions)
        stable = await committed.end_offsets(partitions)
        hidden = [each for each in partitions if stable[each] < ends[each]]
        return {each: await _last_key(everything, each, stable[each], ends[each]) for each in hidden}


async def _last_key(consumer: Any, partition: TopicPartition, start: int, end: int) -> bytes | None:
    consumer.assign([partition])
    consumer.seek(partition, start)
    key = None
    while await consumer.position(partition) < end:
        for record in (await fetch(consumer)).get(partition, []):
            key = record.key
    return key


@asynccontextmanager
async def _consumer(kafka: Kafka, isolation_level: str) -> "AsyncIterator[Any]":
    consumer = AIOKafkaConsumer(**aiokafka_arguments(kafka), isolation_level=isolation_level, enable_auto_commit=False)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()
