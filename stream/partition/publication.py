"""Where a partition's embeddings go: the topic of now, the walk to it that is under way, and how much it has taken."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from state.record import PartitionRecord
from state.walk import Output, Walk
from stream.kafka.transactions import Writer
from stream.metrics import WorkerMetrics
from stream.records.outgoing import Outgoing

logger = logging.getLogger("lurm")


class Ended(NamedTuple):
    """An embeddings partition ended at ``end`` when all below ``shown_end`` had been written to it."""

    end: int
    shown_end: int


class Publication:
    """Writes one partition's embeddings; its partition calls it in turn, and writes down what it says.

    Invariant: the topic held everything below ``shown_end``. The ``walk`` is None where everybody's is there.
    """

    def __init__(self, writer: Writer, topic: str, metrics: WorkerMetrics) -> None:
        self.walk: Walk | None = None
        self.output: Output | None = None
        self.shown_end = 0
        self._writer = writer
        self._topic = topic
        self._metrics = metrics

    def begin(self, record: PartitionRecord) -> None:
        """What is written next stands behind what the record, or this process, knows of."""
        self.shown_end = max(self.shown_end, record.embeddings_end)
        self._writer.begin_topic(self._topic, self.shown_end - 1)

    def aim(self, record: PartitionRecord | None, output: Output) -> bool:
        """Whether a walk begins, which must be written down before it publishes anything.

        One that is under way goes on, also through rebalances that leave the partition here.
        """
        known = self.noted(record or PartitionRecord("", ""))
        walk = None if record is None else known.walk_to(output)
        self.output, self.walk = output, walk
        before = known.output if known.walk is None else known.walk.to
        if walk is None or (known.walk is not None and before.fits(walk.to)):
            return False
        cause = "topic" if before.model_id == output.model_id else "model"
        self._count(cause)
        self.shown_end = 0
        self._writer.begin_topic(output.topic)
        logger.info(
            "another %s: everybody is published again: partition=%d %s before: %s%s",
            cause, self._writer.partition, output, before, " (not everybody yet)" if known.walk else "",
        )  # fmt: skip
        return True

    def loses(self, ended: Ended) -> bool:
        """Whether the topic has lost its end: then a walk begins, which must be written down."""
        if not ended.end < ended.shown_end <= self.shown_end:
            return False
        logger.error(
            "the embeddings topic has lost its end, everybody is published again: topic=%s partition=%d written=%d "
            "end=%d", self._topic, self._writer.partition, ended.shown_end, ended.end,
        )  # fmt: skip
        self.begin_again()
        self._writer.begin_topic(self._topic)
        return True

    def begin_again(self) -> None:
        """What was published is gone: a walk over everybody begins."""
        self.walk, self.shown_end = Walk(self.output or Output()), 0
        self._count("topic")

    async def write(self, cause: str, records: Sequence[Outgoing], now_ms: int) -> int:
        """Where the last of these records stands. **Raises** as `Writer.transact`."""
        last = (await self._writer.transact(cause, {self._topic: records}, now_ms))[self._topic]
        self.shown_end = last + 1
        return last

    def noted(self, record: PartitionRecord) -> PartitionRecord:
        """The record as it says where embeddings go."""
        return record if self.output is None else record.publishing(self.output, self.walk)

    def _count(self, cause: str) -> None:
        self._metrics.publishing.walks.labels(cause).inc()
