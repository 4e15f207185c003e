"""The newest partition records of the changelog, read before a recovery: what they say is published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
"""

from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from stream.connection import aiokafka_arguments
from stream.settings import Kafka

# Each transaction ends with its partition record, so the first look nearly always finds one.
_LOOK_BACK = (64, 4_096, 262_144)
_POLL_MS = 500


async def newest_records(kafka: Kafka, topic: str, numbers: Iterable[int]) -> dict[int, PartitionRecord]:
    """The last committed record of each partition; one that stands too far back is missing."""
    consumer = AIOKafkaConsumer(
        **aiokafka_arguments(kafka),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        found = {number: await _newest(consumer, TopicPartition(topic, number)) for number in numbers}
    finally:
        await consumer.stop()
    return {number: record for number, record in found.items() if record is not None}


async def _newest(consumer: Any, partition: TopicPartition) -> PartitionRecord | None:
    consumer.assign([partition])
    first = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    for n_offsets in _LOOK_BACK:
        start = max(first, end - n_offsets)
        consumer.seek(partition, start)
        value = await _last_value(consumer, partition, end)
        if value is not None:
            return decode_record(value)
        if start == first:
            break
    return None


async def _last_value(consumer: Any, partition: TopicPartition, end: int) -> bytes | None:
    """The last partition record up to ``end``, or up to where an open transaction holds readers back."""
    value = None
    while await consumer.position(partition) < end:
        records = (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, [])
        if not records:
            break
        value = next((record.value for record in reversed(records) if record.key == RECORD_KEY), value)
    return value
