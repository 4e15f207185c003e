"""Reads the control partitions of the partitions this worker owns, and hands each marker to its partition.

A consumer of our own beside Faust's, by assignment and without a group: what it reads follows what is owned, whichever
topics the group's other members know, and a control topic in trouble stops no event. Where reading resumes is what
the partition record says.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.kafka.connection import aiokafka_arguments, fetch_or_wait
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition
from stream.records.erasure import Marker, decode
from stream.settings import Kafka

logger = logging.getLogger("lurm")

_PAUSE_S = 0.5


class ControlReader:
    """Follows the ownership of one worker."""

    def __init__(self, ownership: Ownership, kafka: Kafka) -> None:
        self._ownership = ownership
        self._kafka = kafka

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
        consumer = await self._connect()
        try:
            places = {
                TopicPartition(partition.names.control, number): partition.record.control_offset
                for number, partition in owned.items()
            }
            consumer.assign(list(places))
            for tp, offset in places.items():
                consumer.seek(tp, offset)
            while self._owned() == owned:
                for tp, records in (await fetch_or_wait(consumer, "erasures")).items():
                    if not await self._erase(owned[tp.partition], records):
                        # It went to another worker, or is about to: whoever owns it reads the marker again.
                        return
        finally:
            await consumer.stop()

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

    async def _erase(self, partition: Partition, records: Sequence[Any]) -> bool:
        """Apply the markers among these; False when the partition was given up before all were."""

        def is_owned() -> bool:
            return self._owned().get(partition.number) is partition

        for record in records:
            said = decode(record.value)
            if said is None:
                logger.warning("not a control record: partition=%d offset=%d", partition.number, record.offset)
                continue
            # A stop cancels who reads, not what has begun: its transaction would stay open for the batches behind it.
            if isinstance(said, Marker) and not await asyncio.shield(
                partition.erase(said, record.offset + 1, is_owned)
            ):
                return False
        return True
