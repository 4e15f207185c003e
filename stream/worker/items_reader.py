"""Reads the items topic for one worker: all of it before the first event is counted, then whatever comes.

A consumer of our own beside Faust's, of all partitions, also those added later, and without a group: every worker knows
every item. Where partitions were added or the topic was recreated, all of it is read again, while what was known serves
on: so a running worker knows what one that starts now would know, and forgets what a recreated topic lacks. Refused:
keeping that, until a restart or a rebalance gives the user's next event another interest.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.errors import BrokerUnavailable, ConfigInvalid, LurmError, permission_missing
from stream.kafka.connection import aiokafka_arguments, fetch, fetch_or_wait
from stream.kafka.topics import TopicIdentity, identity
from stream.metrics import WorkerMetrics
from stream.records.new_items import ItemRecord, LearnedItems
from stream.settings import Settings

logger = logging.getLogger("lurm")

# So many are decoded between two turns of the event loop, which waits for none of their interests.
_RECORDS_MAX: Final = 2_000
# Added partitions and another topic of the name are noticed this soon.
_LOOK_S: Final = 10.0
_METADATA_AGE_MS: Final = int(_LOOK_S * 1000)
_DEADLINE_S: Final = 5.0


class ItemsReader:
    """Fills ``learned``; ``n_read`` moves as long as it does."""

    def __init__(self, settings: Settings, learned: LearnedItems, metrics: WorkerMetrics) -> None:
        self.learned = learned
        self.metrics = metrics
        self.n_read = 0
        self._settings = settings
        # A broker that is away must not hold up the end of the worker.
        seconds = {"start_deadline_s": _DEADLINE_S, "request_timeout_s": _DEADLINE_S}
        self._impatient = settings.model_copy(update={"kafka": settings.kafka.model_copy(update=seconds)})
        self._look_at_s = 0.0
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
            raise permission_missing(error, "Read") or BrokerUnavailable(
                f"the items topic cannot be read: {error!r} topic={topic} records={self.n_read} "
                f"brokers={kafka.brokers} kafka.start_deadline_s={kafka.start_deadline_s:g}; is Kafka running?"
            ) from error

    async def _follow(self) -> None:
        kafka = self._settings.kafka
        found = await asyncio.to_thread(identity, self._settings, self._settings.topics.items)
        if found is None:
            topic = self._settings.topics.items
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
            await self._read_anew(consumer, found.n_partitions)
            self._caught_up.set()
            # Whatever the broker refuses from now on, what was learned holds.
            while True:
                found = await self._follow_changes(consumer, found)
                await self._learn(self.learned, await fetch_or_wait(consumer, "new items", _RECORDS_MAX))
        finally:
            await consumer.stop()

    async def _follow_changes(self, consumer: AIOKafkaConsumer, before: TopicIdentity) -> TopicIdentity:
        """Look now and then whether the topic is still as it was; if not, read all of it again."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._look_at_s:
            return before
        self._look_at_s, topic = now_s + _LOOK_S, self._settings.topics.items
        try:
            found = await asyncio.to_thread(identity, self._impatient, topic)
            if found is None or found == before:
                return before
            logger.warning(
                "the items topic has changed and is read again: topic=%s partitions=%d before=%d id=%s before=%s",
                topic, found.n_partitions, before.n_partitions, found.topic_id, before.topic_id,
            )  # fmt: skip
            await self._read_anew(consumer, found.n_partitions)
        except (LurmError, KafkaError, TimeoutError) as error:
            logger.warning("the items topic cannot be looked at now: %s topic=%s", error, topic)
            return before
        return found

    async def _read_anew(self, consumer: AIOKafkaConsumer, n_partitions: int) -> None:
        """Know what stands in the topic now, and nothing else."""
        consumer.assign([TopicPartition(self._settings.topics.items, number) for number in range(n_partitions)])
        learned = self.learned.beginning(n_partitions)
        n_before = self.n_read
        await self._read_to_end(consumer, learned)
        self.learned.become(learned)
        self.metrics.learned_items.set(len(self.learned.interest_of))
        logger.info("items are known: records=%d learned=%d", self.n_read - n_before, len(self.learned.interest_of))

    async def _read_to_end(self, consumer: AIOKafkaConsumer, learned: LearnedItems) -> None:
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
                await self._learn(learned, await fetch(consumer, _RECORDS_MAX))

    async def _learn(self, learned: LearnedItems, parts: Mapping[Any, list[Any]]) -> None:
        records = [
            ItemRecord(partition.partition, record.timestamp or 0, record.key, record.value)
            for partition, part in parts.items()
            for record in part
        ]
        if not records:
            return
        # Finding the interests is a matrix product, which may take longer than events should wait.
        lessons = await asyncio.to_thread(learned.read, records)
        for outcome, n in learned.take(records, lessons).items():
            self.metrics.item_records.labels(outcome.value).inc(n)
        self.metrics.learned_items.set(len(self.learned.interest_of))
        self.n_read += len(records)
