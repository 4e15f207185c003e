"""Reads the control partitions of the partitions this worker owns, and hands the markers to their partition.

Beside them it follows the erasures topic, where other applications of the same events say whom they erased. What is no
record of ours, or is larger than one, is counted and left; an end behind the source's is the source's.

A consumer of our own beside Faust's, by assignment and without a group: what it reads follows what is owned, whichever
topics the group's other members know, and a control topic in trouble stops no event. Where reading resumes is what
the partition record says, unless the topic was made anew: what was fetched counts only of the topic it was fetched for.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.errors import LurmError
from stream.kafka.connection import aiokafka_arguments, fetch_or_wait, impatient
from stream.kafka.topics import topic_ids
from stream.partition.erasing import Asked
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition
from stream.records.erasure import Marker, decode
from stream.settings import Settings

logger = logging.getLogger("lurm")

_PAUSE_S: Final = 0.5
_DEADLINE_S: Final = 5.0
_GONE_PAUSE_S: Final = 5.0


class ControlReader:
    """Follows the ownership of one worker."""

    def __init__(self, ownership: Ownership, settings: Settings) -> None:
        self._ownership = ownership
        self._kafka = settings.kafka
        self._impatient = impatient(settings, _DEADLINE_S)

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            if owned := self._owned():
                await self._read(owned)
            else:
                await asyncio.sleep(_PAUSE_S)

    def _owned(self) -> dict[int, Partition]:
        return dict(self._ownership.partitions) if self._ownership.recovered else {}

    async def _read(self, owned: Mapping[int, Partition]) -> None:
        """Read what is owned now, each partition from where its record says, until something else is owned.

        With a consumer of its own: aiokafka's ``stop`` never returns when it comes right after another assignment.
        """
        names = self._ownership.shared.names
        ids = await self._ids()
        if gone := {names.control, names.erasures} - set(ids):
            logger.warning("erasures cannot be read, there is no such topic: %s", ",".join(sorted(gone)))
            await asyncio.sleep(_GONE_PAUSE_S)
            return
        consumer = await self._connect()
        try:
            places: dict[TopicPartition, int] = {}
            for number, partition in owned.items():
                offset = partition.control.follow(partition.record, ids[names.control])
                places[TopicPartition(names.control, number)] = offset
                partition.erased.follow(ids[names.erasures])
                places[TopicPartition(names.erasures, number)] = partition.erased.next_offset
            sources = [TopicPartition(names.events, number) for number in owned]
            consumer.assign([*places, *sources])
            # Only asked for their ends.
            consumer.pause(*sources)
            for tp, offset in places.items():
                consumer.seek(tp, offset)
            while self._owned() == owned:
                found = await fetch_or_wait(consumer, "erasures")
                if found and not (await self._ids() == ids and await self._take(owned, consumer, found)):
                    return
        finally:
            await consumer.stop()

    async def _ids(self) -> Mapping[str, str]:
        """The ids of the topics that there are."""
        names = self._ownership.shared.names
        while True:
            try:
                return await asyncio.to_thread(topic_ids, self._impatient, (names.control, names.erasures))
            except LurmError as error:
                logger.warning("the topics of erasures cannot be looked at now: %s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _take(self, owned: Mapping[int, Partition], consumer: Any, found: Mapping[Any, Sequence[Any]]) -> bool:
        """Do what was fetched says; False when all must be read again, perhaps by whoever owns it then."""
        sources = [TopicPartition(owned[tp.partition].names.events, tp.partition) for tp in found]
        try:
            # Asked after what was fetched was written: an end behind these cannot be.
            ends = await consumer.end_offsets(sources) if sources else {}
        except KafkaError as error:
            logger.warning("erasures cannot be done yet: %s", error)
            await asyncio.sleep(_PAUSE_S)
            return False
        erasing = []
        for (tp, records), source in zip(found.items(), sources, strict=True):
            partition = owned[tp.partition]
            if tp.topic == partition.names.erasures:
                self._refused(
                    partition, tp.topic, partition.erased.learn(records, partition.record.next_offset, ends[source])
                )
            else:
                erasing.append(self._erase(partition, records, ends[source]))
        # Side by side: each waits for its own transactions.
        return all(await asyncio.gather(*erasing))

    async def _connect(self) -> AIOKafkaConsumer:
        while True:
            consumer = AIOKafkaConsumer(
                **aiokafka_arguments(self._kafka), auto_offset_reset="earliest", enable_auto_commit=False
            )
            try:
                await consumer.start()
            except KafkaError as error:
                await consumer.stop()
                logger.warning("erasures cannot be read yet: %s", error)
                await asyncio.sleep(_PAUSE_S)
            else:
                return consumer

    async def _erase(self, partition: Partition, records: Sequence[Any], source_end: int) -> bool:
        """Apply the markers among these; False when the partition was given up before all were."""

        def is_owned() -> bool:
            return self._owned().get(partition.number) is partition

        asked, n_bad = [], 0
        for record in records:
            said = decode(record.value)
            n_bad += said is None
            if isinstance(said, Marker):
                end = min(said.end_offset, source_end)
                asked.append(Asked(msgspec.structs.replace(said, end_offset=end), record.offset + 1))
        self._refused(partition, partition.names.control, n_bad)
        # A stop cancels who reads, not what has begun: its transaction would stay open for the batches behind it.
        return await asyncio.shield(partition.erase(asked, is_owned))

    def _refused(self, partition: Partition, topic: str, n: int) -> None:
        if n:
            logger.warning("not records of ours: n=%d topic=%s partition=%d", n, topic, partition.number)
            self._ownership.shared.metrics.refused_control.inc(n)
