"""Transactional producers: one batch of one partition is one Kafka transaction.

Starting a producer with the id of a partition fences whoever held it before and aborts its open transaction, so only
the present owner can write (I4, I5). Any error of a transaction is final for the process: the state makes that safe.
Every request has aiokafka's deadline and is retried; what never ends is ended by the watchdog (I8).
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, InvalidTimestampError, KafkaError, ProducerFenced

from stream.errors import Overtaken, TimeRefused, permission_missing
from stream.failpoints import passing
from stream.kafka.clock import Clock
from stream.kafka.connection import aiokafka_arguments
from stream.kafka.topics import BATCH_BYTES
from stream.records.outgoing import Outgoing
from stream.settings import Kafka


class TopicWentBack(KafkaError):  # type: ignore[misc]
    """What was written before is gone: the topic is another one by now, or has lost its end."""


class SourceOffset(NamedTuple):
    """How far a source partition is applied once the transaction commits."""

    topic: str
    partition: int
    next_offset: int
    group: str


def last_offset(topic: str, base_offset: int, n_records: int, after: int = -1) -> int:
    """Where the last record of an acknowledged batch stands; the one that this producer wrote before stands ``after``.

    **Raises** `KafkaError` when the broker did not say: it knows the batch from an earlier attempt, but not where. And
    `TopicWentBack` when it does not follow.
    """
    if base_offset < 0:
        raise KafkaError(f"the broker has written a batch and does not know where: topic={topic}")
    if base_offset <= after:
        raise TopicWentBack(
            f"a topic has gone back; was it recreated, or has it lost its end? topic={topic} last={after} "
            f"next={base_offset}"
        )
    return base_offset + n_records - 1


class Writer(Protocol):
    """What a partition asks of a producer: Kafka's, or one in memory (`stream.testing`)."""

    partition: int
    id: str

    @property
    def n_done(self) -> int:
        """How many transactions are over."""

    @property
    def in_flight(self) -> bool:
        """Whether one is not."""

    @property
    def dead(self) -> bool:
        """Nothing would ever be sent again."""

    @property
    def idle_s(self) -> float:
        """How long ago its id was last used."""

    async def stop(self) -> None:
        """Give up the connection."""

    def begin_topic(self, topic: str, after: int = -1) -> None:
        """What is written next into this topic need only follow this offset: it was made anew, or is known so far."""

    async def end_hanging(self, topics: Sequence[str], *, commit: bool) -> None:
        """Run a transaction without records."""

    async def transact(
        self,
        cause: str,
        outputs: Mapping[str, Sequence[Outgoing]],
        timestamp_ms: int,
        source: SourceOffset | None = None,
    ) -> dict[str, int]:
        """Write all or nothing; the offset of each topic's last record."""


class TransactionalProducer:
    """The only writer of one partition's outputs while it is started."""

    def __init__(self, kafka: Kafka, transactional_id: str, partition: int, clock: Clock | None = None) -> None:
        self.partition = partition
        self._clock = clock or Clock()
        self.id = transactional_id
        self._kafka = kafka
        # What the watchdog looks at: how many transactions are over, and whether one is not.
        self.n_done = 0
        self.in_flight = False
        self._used_at_s = time.monotonic()
        # The offset of the last record of each topic.
        self._written: dict[str, int] = {}
        self._producer = AIOKafkaProducer(
            **aiokafka_arguments(kafka),
            transactional_id=transactional_id,
            acks="all",
            max_batch_size=BATCH_BYTES,
            transaction_timeout_ms=int(kafka.transaction_timeout_s * 1000),
        )

    async def start(self) -> None:
        """Fence the previous owner. **Raises** `PermissionMissing`, and whatever else the broker answers."""
        try:
            await self._producer.start()
        except KafkaError as error:
            raise permission_missing(error) or error from error
        self._used_at_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        """How long ago its id was last used: Kafka forgets one that nobody uses."""
        return time.monotonic() - self._used_at_s

    async def stop(self) -> None:
        """Give up the connection; an open transaction is left to be aborted."""
        await self._producer.stop()

    @property
    def dead(self) -> bool:
        """The sender task ended, so nothing would ever be sent again."""
        sender = self._producer._sender.sender_task  # noqa: SLF001 - aiokafka offers no other way to see it
        return sender is not None and sender.done()

    def begin_topic(self, topic: str, after: int = -1) -> None:
        """As `Writer` says."""
        self._written[topic] = after

    async def end_hanging(self, topics: Sequence[str], *, commit: bool) -> None:
        """Run a transaction without records: its markers end what an earlier owner left open in these topics.

        Where nothing was left open they only say that the id is in use.
        """
        manager = self._producer._txn_manager  # noqa: SLF001 - aiokafka adds a partition only with a record to write
        self.in_flight = True
        await self._producer.begin_transaction()
        for topic in topics:
            manager.maybe_add_partition_to_txn(TopicPartition(topic, self.partition))
        await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())
        self._is_over()

    async def transact(
        self,
        cause: str,
        outputs: Mapping[str, Sequence[Outgoing]],
        timestamp_ms: int,
        source: SourceOffset | None = None,
    ) -> dict[str, int]:
        """Write the records of each topic and the source offset in one transaction.

        Returns the offset of the last record of each topic that got any; ``cause`` names the failpoints passed.
        **Raises** `Overtaken`, `TopicWentBack`, and whatever else the broker answers; the caller ends the process.
        """
        begun_at_s = time.monotonic()
        try:
            return await self._transact(cause, outputs, timestamp_ms, source)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise self._overtaken(time.monotonic() - begun_at_s) from error

    def _overtaken(self, took_s: float) -> Overtaken:
        """Kafka says the same of a transaction that took too long and of another producer; the clock tells which."""
        kafka = self._kafka
        if took_s >= kafka.transaction_timeout_s:
            return Overtaken(
                f"a transaction took too long, and the broker has ended it: transactional_id={self.id} "
                f"seconds={took_s:.1f} kafka.transaction_timeout_s={kafka.transaction_timeout_s:g}; did the broker or "
                "this worker stand still?"
            )
        return Overtaken(
            f"another worker has taken this partition over: transactional_id={self.id}; do two workers run with the "
            "same LURM_WORKER__INSTANCE, or did this one stand still for longer than kafka.session_timeout_s="
            f"{kafka.session_timeout_s:g}?"
        )

    async def _transact(
        self,
        cause: str,
        outputs: Mapping[str, Sequence[Outgoing]],
        timestamp_ms: int,
        source: SourceOffset | None,
    ) -> dict[str, int]:
        producer, self.in_flight = self._producer, True
        await producer.begin_transaction()
        sent = {topic: await self._send(topic, records, timestamp_ms) for topic, records in outputs.items() if records}
        last, written = {}, self._written
        for topic, batches in sent.items():
            for n_records, acknowledged in batches:
                try:
                    answer = await acknowledged
                except InvalidTimestampError as error:
                    raise TimeRefused(f"topic={topic}") from error
                last[topic] = written[topic] = last_offset(topic, answer.offset, n_records, written.get(topic, -1))
                if answer.timestamp_type:
                    self._clock.broker_wrote(answer.timestamp)
        passing(f"{cause}.sent")
        if source is not None:
            position = {TopicPartition(source.topic, source.partition): source.next_offset}
            await producer.send_offsets_to_transaction(position, source.group)
            passing(f"{cause}.offset_sent")
        await producer.commit_transaction()
        passing(f"{cause}.committed")
        self._is_over()
        return last

    def _is_over(self) -> None:
        self.n_done, self.in_flight, self._used_at_s = self.n_done + 1, False, time.monotonic()

    async def _send(
        self, topic: str, records: Sequence[Outgoing], timestamp_ms: int
    ) -> list[tuple[int, "asyncio.Future[Any]"]]:
        sent: list[tuple[int, asyncio.Future[Any]]] = []
        remaining = iter(records)
        record = next(remaining, None)
        while record is not None:
            batch = self._producer.create_batch()
            append = batch.append
            while record is not None and (
                append(key=record.key, value=record.value, timestamp=timestamp_ms, headers=record.headers) is not None
            ):
                record = next(remaining, None)
            n_records = batch.record_count()
            batch.close()
            sent.append((n_records, await self._producer.send_batch(batch, topic, partition=self.partition)))
        return sent
