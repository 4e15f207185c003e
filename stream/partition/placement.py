"""Whether a partition's users lie where the topic's partitioner puts them, told from a sample of every batch.

Where producers disagree, a user has half a life in one partition and half in another, each counted right and each with
an embedding of its own: nothing else would show it. Nobody is refused: the counts of each partition are true.
"""

import logging
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from stream.metrics import WorkerMetrics
from stream.records.partitioners import Partitioner, explanation, partitions_of

logger = logging.getLogger("lurm")

# So many users of a batch are looked at, evenly spread: a sixth of a millisecond.
_USERS_MAX: Final = 1024
_SAID_EVERY_MS: Final = 600_000
_PRODUCERS: Final = {
    "murmur2": "Java, librdkafka's murmur2_random",
    "crc32": "librdkafka's default, consistent_random",
    "fnv1a": "Sarama's default",
}


class Placement:
    """Looks at the users of every batch of a topic with so many partitions, and says what it finds now and then."""

    def __init__(
        self, topic: str, n_partitions: int, partitioner: Partitioner | Literal["any"], metrics: WorkerMetrics
    ) -> None:
        self._topic = topic
        self._n_partitions = n_partitions
        self._partitioner = partitioner
        self._metrics = metrics
        self._said_at_ms: dict[int, int] = {}

    def look(self, users: Sequence[bytes], partition: int, now_ms: int) -> None:
        """Count those of these users who lie in their partition, and those who do not."""
        if self._partitioner == "any" or not users:
            return
        looked_at = users[:: -(-len(users) // _USERS_MAX)]
        homes = partitions_of(looked_at, self._n_partitions, self._partitioner)
        away = np.flatnonzero(homes != partition).tolist()
        self._metrics.placed_users.labels("right").inc(len(looked_at) - len(away))
        self._metrics.placed_users.labels("wrong").inc(len(away))
        if away and now_ms - self._said_at_ms.get(partition, 0) >= _SAID_EVERY_MS:
            self._said_at_ms[partition] = now_ms
            self._say(partition, [looked_at[i] for i in away], len(looked_at), self._partitioner)

    def _say(self, partition: int, away: Sequence[bytes], n_looked_at: int, partitioner: Partitioner) -> None:
        other = explanation(away, [partition] * len(away), self._n_partitions)
        logger.warning(
            "users lie where topics.partitioner=%s does not put them, and may have another part of their life in "
            "another partition: topic=%s partition=%d users=%d of=%d%s; make all producers of the topic use one "
            "partitioner (librdkafka: partitioner=murmur2_random), or, if they do, name it in "
            "LURM_TOPICS__PARTITIONER; `lurm repartition` then merges who is in several partitions",
            partitioner, self._topic, partition, len(away), n_looked_at,
            "" if other is None else f" placed_by={other} ({_PRODUCERS[other]})",
        )  # fmt: skip
