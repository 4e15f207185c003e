"""Reads the control partitions of the partitions this worker owns, and hands each marker to its partition.

A consumer of our own beside Faust's, by assignment and without a group: what it reads follows what is owned, whichever
topics the group's other members know, and a control topic in trouble stops no event. Where reading resumes is what
the partition record says.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.connection import aiokafka_arguments, fetch_or_wait
from stream.erasure import Marker, decode
from stream.ownership import Ownership
from stream.partition import Partition
from stream.settings import Kafka

logger = logging.getLogger("lurm")

_PAUSE_S = 0.5


class ControlReader:
    """Follows the ownership of one worker."""

    def __init__(self, ownership: Ownership, kafka: Kafka) -> None:
        self._ownership = ownership
        self._kafka = kafka
        self._held: dict[int, Partition] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        consumer = await self._connect()
        try:
            while True:
                self._follow(consumer)
                if not self._held:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                for tp, records in (await fetch_or_wait(consumer, "erasures")).items():
                    await self._erase(tp.partition, records)
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

    def _follow(self, consumer: AIOKafkaConsumer) -> None:
        """Read what is owned now; each newly taken partition from where its record says."""
        owned = dict(self._ownership.partitions) if self._ownership.recovered else {}
        if owned == self._held:
            return
        self._held = owned
        places = {
            TopicPartition(partition.names.control, number): partition.record.control_offset
            for number, partition in owned.items()
        }
        if places:
            consumer.assign(list(places))
        for tp, offset in places.items():
            consumer.seek(tp, offset)

    async def _erase(self, number: int, records: Sequence[Any]) -> None:
        for record in records:
            said = decode(record.value)
            if said is None:
                logger.warning("not a control record: partition=%d offset=%d", number, record.offset)
            elif isinstance(said, Marker) and not await self._erase_one(number, said, record.offset + 1):
                # It went to another worker, or is about to: whoever owns it reads the marker again.
                self._held = {}
                return

    async def _erase_one(self, number: int, marker: Marker, next_offset: int) -> bool:
        partition = self._held.get(number)

        def is_owned() -> bool:
            ownership = self._ownership
            return partition is not None and ownership.recovered and ownership.partitions.get(number) is partition

        if partition is None:
            return False
        # A stop cancels who reads, not what has begun: its transaction would stay open for the batches behind it.
        return await asyncio.shield(partition.erase(marker, next_offset, is_owned))
