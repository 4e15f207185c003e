"""Reads the items topic for one worker: all of it before the first event is counted, then whatever comes.

A consumer of our own beside Faust's, of all partitions, also those added later, and without a group: every worker knows
every item.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.kafka.connection import aiokafka_arguments, fetch, fetch_or_wait
from stream.kafka.topics import n_partitions
from stream.metrics import WorkerMetrics
from stream.records.new_items import ItemRecord, LearnedItems
from stream.settings import Settings

logger = logging.getLogger("lurm")

# So many are decoded between two turns of the event loop, which waits for none of their interests.
_RECORDS_MAX: Final = 2_000
# Added partitions are noticed this soon.
_METADATA_AGE_MS: Final = 10_000


class ItemsReader:
    """Fills ``learned``; ``n_read`` moves as long as it does."""

    def __init__(self, settings: Settings, learned: LearnedItems, metrics: WorkerMetrics) -> None:
        self.learned = learned
        self.metrics = metrics
        self.n_read = 0
        self._settings = settings
        self._next_offsets: dict[TopicPartition, int] = {}
        self._caught_up = asyncio.Event()

    async def caught_up(self) -> None:
        """Return once everything is known that stood in the topic when reading began."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Read until cancelled. **Raises** `BrokerUnavailable` when the topic cannot be read."""
        try:
            await self._follow()
        except (KafkaError, TimeoutError) as error:
            topic, kafka = self._settings.topics.items, self._settings.kafka
            raise BrokerUnavailable(
                f"the items topic cannot be read: {error!r} topic={topic} records={self.n_read} "
                f"brokers={kafka.brokers} kafka.start_deadline_s={kafka.start_deadline_s:g}; is Kafka running?"
            ) from error

    async def _follow(self) -> None:
        topic, kafka = self._settings.topics.items, self._settings.kafka
        numbers = range(await asyncio.to_thread(n_partitions, self._settings, topic))
        if not numbers:
            raise ConfigInvalid(f"the items topic does not exist: topic={topic}; `lurm topics create` makes it")
        consumer = AIOKafkaConsumer(
            **aiokafka_arguments(kafka),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            metadata_max_age_ms=_METADATA_AGE_MS,
        )
        try:
            await consumer.start()
            self._assign(consumer, numbers)
            await self._read_to_end(consumer)
            self._caught_up.set()
            # Whatever the broker refuses from now on, what was learned holds.
            while True:
                self._follow_added(consumer)
                await self._learn(await fetch_or_wait(consumer, "new items", _RECORDS_MAX))
        finally:
            await consumer.stop()

    def _follow_added(self, consumer: AIOKafkaConsumer) -> None:
        topic, held = self._settings.topics.items, {each.partition for each in consumer.assignment()}
        added = set(consumer.partitions_for_topic(topic) or ()) - held
        if added:
            logger.warning("partitions were added to the items topic: topic=%s partitions=%s", topic, sorted(added))
            self._assign(consumer, held | added)

    def _assign(self, consumer: AIOKafkaConsumer, numbers: Iterable[int]) -> None:
        """Read these partitions, each on from what was read of it."""
        partitions = [TopicPartition(self._settings.topics.items, number) for number in numbers]
        self.learned.n_partitions = len(partitions)
        consumer.assign(partitions)
        for each in self._next_offsets.keys() & set(partitions):
            consumer.seek(each, self._next_offsets[each])

    async def _read_to_end(self, consumer: AIOKafkaConsumer) -> None:
        """Everything that stands in the topic now. **Raises** `TimeoutError` when nothing moves for the deadline."""
        deadline_s, clock = self._settings.kafka.start_deadline_s, asyncio.get_running_loop().time
        async with asyncio.timeout(deadline_s) as limit:
            partitions = list(consumer.assignment())
            ends = await consumer.end_offsets(partitions)
            for partition, first in (await consumer.beginning_offsets(partitions)).items():
                consumer.seek(partition, first)
            done = -1
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                if self.n_read > done:
                    done = self.n_read
                    limit.reschedule(clock() + deadline_s)
                await self._learn(await fetch(consumer, _RECORDS_MAX))
        logger.info("items are known: records=%d learned=%d", self.n_read, len(self.learned.interest_of))

    async def _learn(self, parts: Mapping[Any, list[Any]]) -> None:
        records = [
            ItemRecord(partition.partition, record.timestamp, record.key, record.value)
            for partition, part in parts.items()
            for record in part
        ]
        if not records:
            return
        self._next_offsets |= {partition: part[-1].offset + 1 for partition, part in parts.items()}
        # Finding the interests is a matrix product, which may take longer than events should wait.
        lessons = await asyncio.to_thread(self.learned.read, records)
        for outcome, n in self.learned.take(records, lessons).items():
            self.metrics.item_records.labels(outcome.value).inc(n)
        self.metrics.learned_items.set(len(self.learned.interest_of))
        self.n_read += len(records)
