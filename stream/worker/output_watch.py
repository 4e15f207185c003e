"""Notices that the embeddings topic was deleted and made again beneath a running worker, which else goes on unaware.

Kafka's protocol names topics, not ids, in what a producer sends, so the broker is asked for the id from time to time.
What was published before it is noticed is published again with everybody. A broker that does not answer is no reason
to end: who is to publish finds out.
"""

import asyncio
import logging
from functools import partial
from typing import Final

from stream.errors import LurmError, OutputLost
from stream.fatal import die
from stream.kafka.output import read_output
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition
from stream.settings import Settings

logger = logging.getLogger("lurm")

_INTERVAL_S: Final = 10.0
# A broker is asked again anyway, and its thread must not hold up the worker's end.
_DEADLINE_S: Final = 5.0
# Whoever makes the topic anew by hand is given this many looks.
_GONE_MAX: Final = 3


class OutputWatch:
    """Looks at the embeddings topic of one worker."""

    def __init__(self, ownership: Ownership, settings: Settings, model_id: str) -> None:
        kafka = {"start_deadline_s": min(_DEADLINE_S, settings.kafka.start_deadline_s)}
        self._settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update=kafka)})
        self._ownership = ownership
        self._model_id = model_id
        self._n_gone = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if self._ownership.recovered and self._ownership.partitions:
                await self._look()

    async def _look(self) -> None:
        try:
            output = await asyncio.to_thread(read_output, self._settings, self._model_id)
        except OutputLost as error:
            self._n_gone += 1
            logger.warning("%s", error)
            if self._n_gone >= _GONE_MAX:
                die(error)
        except LurmError as error:
            logger.warning("the embeddings topic cannot be looked at now: %s", error)
        else:
            self._n_gone = 0
            for number, partition in list(self._ownership.partitions.items()):
                await partition.aim(output, partial(self._owns, number, partition))

    def _owns(self, number: int, partition: Partition) -> bool:
        """Whether it is still ours and recovered: whoever recovers later asks for the output itself."""
        return self._ownership.recovered and self._ownership.partitions.get(number) is partition
