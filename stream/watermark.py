"""How the changelog ends, read before a recovery: what its last partition records call published needs no mark.

A recovery that met the watermark only at the changelog's end would mark every user there is, and then forget them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from stream.connection import aiokafka_arguments
from stream.settings import Kafka

# Each transaction ends with its partition record, so the first look nearly always finds one.
_LOOK_BACK = (64, 4_096, 262_144)
_POLL_MS = 500
# Less than that: the answer tells where readers are held back, also when there is nothing to read.
_FETCH_WAIT_MS = 100


class End(NamedTuple):
    """How a changelog partition ends: its last committed record, None if that stands too far back.

    ``is_held_back``: an open transaction hides what stands behind it.
    """

    record: PartitionRecord | None
    is_held_back: bool


async def changelog_ends(kafka: Kafka, topic: str, numbers: Iterable[int]) -> dict[int, End]:
    """How each of these partitions ends now."""
    wanted = list(numbers)
    if not wanted:
        return {}
    consumer = AIOKafkaConsumer(
        **aiokafka_arguments(kafka),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        return {number: await _end(consumer, TopicPartition(topic, number)) for number in wanted}
    finally:
        await consumer.stop()


async def _end(consumer: Any, partition: TopicPartition) -> End:
    consumer.assign([partition])
    first = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    value = await _newest(consumer, partition, first, end)
    if consumer.highwater(partition) is None:
        await consumer.getmany(partition, timeout_ms=_POLL_MS)
    # Both as the last fetch told them; the end that a reader of committed records is told is the stable one.
    stable, written = consumer.last_stable_offset(partition), consumer.highwater(partition)
    is_held_back = stable is not None and written is not None and 0 <= stable < written
    return End(None if value is None else decode_record(value), is_held_back)


async def _newest(consumer: Any, partition: TopicPartition, first: int, end: int) -> bytes | None:
    for n_offsets in _LOOK_BACK:
        start = max(first, end - n_offsets)
        consumer.seek(partition, start)
        value = await _last_value(consumer, partition, end)
        if value is not None or start == first:
            return value
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
