"""Notices what happens to the embeddings topic beneath a running worker, which else goes on unaware.

It may be deleted and made again: Kafka's protocol names topics, not ids, in what a producer sends, so the broker is
asked for the id from time to time. It may lose its end, which is found by what is written next, if anything is, and
here. What was published before it is noticed is published again with everybody. A broker that does not answer is no
reason to end: who is to publish finds out.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Set
from functools import partial
from typing import Final

from state.walk import Output
from stream.errors import ConfigInvalid, LurmError, OutputLost
from stream.fatal import die
from stream.kafka.connection import impatient
from stream.kafka.output import read_output
from stream.kafka.topics import end_offsets, refuse_wrong
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition
from stream.partition.publication import Ended
from stream.settings import Settings

logger = logging.getLogger("lurm")

_INTERVAL_S: Final = 10.0
_DEADLINE_S: Final = 5.0
# Whoever makes the topic anew by hand is given this many looks.
_GONE_MAX: Final = 3
# Of so many looks one is at the topic's end, for which a consumer must connect.
_PER_END: Final = 6
_ENDS_ASKED: Final = 3
_ENDS_PAUSE_S: Final = 0.5


class OutputWatch:
    """Looks at the embeddings topic of one worker."""

    def __init__(self, ownership: Ownership, settings: Settings, model_id: str) -> None:
        self._settings = impatient(settings, _DEADLINE_S)
        self._ownership = ownership
        self._model_id = model_id
        self._n_gone = 0
        self._n_looks = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if self._ownership.recovered and self._ownership.partitions:
                await self._look()

    async def _look(self) -> None:
        partitions = self._ownership.partitions
        shown = {number: partition.publication.shown_end for number, partition in partitions.items()}
        known = {partition.publication.output for partition in partitions.values()}
        try:
            output, lost = await asyncio.to_thread(self._found, known, shown)
        except OutputLost as error:
            self._n_gone += 1
            logger.warning("%s", error)
            if self._n_gone >= _GONE_MAX:
                die(error)
        except ConfigInvalid as error:
            die(error)
        except LurmError as error:
            logger.warning("the embeddings topic cannot be looked at now: %s", error)
        else:
            self._n_gone = 0
            for number, partition in list(partitions.items()):
                await partition.aim(output, partial(self._owns, number, partition), lost.get(number))

    def _found(self, known: Set[Output | None], shown: Mapping[int, int]) -> tuple[Output, Mapping[int, Ended]]:
        """The topic of now and, looked at now and then, the partitions that end before what was ``shown``.

        **Raises** `ConfigInvalid` when it is none of those ``known``, and no worker starts on it.
        """
        output = read_output(self._settings, self._model_id)
        if output not in known:
            refuse_wrong(self._settings, output.topic)
        self._n_looks += 1
        return output, self._lost(output.topic, shown) if self._n_looks % _PER_END == 1 else {}

    def _lost(self, topic: str, shown: Mapping[int, int]) -> dict[int, Ended]:
        """The partitions that end before what was shown, each time that they are asked.

        A Kafka whose node had just come back was seen to say 0 once.
        """
        lost = {number: Ended(shown_end, shown_end) for number, shown_end in shown.items()}
        for attempt in range(_ENDS_ASKED):
            time.sleep(attempt and _ENDS_PAUSE_S)
            ends = end_offsets(self._settings, topic)
            found = {number: before._replace(end=ends.get(number, before.shown_end)) for number, before in lost.items()}
            lost = {number: ended for number, ended in found.items() if ended.end < ended.shown_end}
            if not lost:
                break
        return lost

    def _owns(self, number: int, partition: Partition) -> bool:
        """Whether it is still ours and recovered: whoever recovers later asks for the output itself."""
        return self._ownership.recovered and self._ownership.partitions.get(number) is partition
