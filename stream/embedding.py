"""Consuming the embeddings topic: committed, newest per user, of one vector space.

What a record looks like, and the writer's side, is in `stream.records.embedding_record`, whose names are offered
here too.
"""

from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from stream.errors import ConfigInvalid, SpaceMixed
from stream.kafka.connection import broker_errors, consumer_arguments
from stream.records.embedding_record import (
    Embedding,
    EmbeddingWriter,
    Erased,
    decode,
    encode_value,
    headers_of,
    shared_headers,
)
from stream.settings import Kafka

__all__ = [
    "Embedding",
    "EmbeddingConsumer",
    "EmbeddingWriter",
    "Erased",
    "NewestSeq",
    "decode",
    "encode_value",
    "headers_of",
    "shared_headers",
]

# Whoever lost its partitions meanwhile cannot commit them: the new owner reads those records again.
_LOST_PARTITIONS = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


class NewestSeq:
    """The newest ``seq`` of the users seen last; at most ``users_max`` are remembered, so memory is bounded.

    A stale record follows the newer one closely (a retry, or a partition read again after a rebalance), so the users
    seen longest ago are the ones to forget.
    """

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._newest: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def is_news(self, embedding: Embedding) -> bool:
        """Whether it is newer than all before of this user; the same ``seq`` by another model is news."""
        user_id, seen = embedding.user_id, self._newest.get(embedding.user_id, (-1, ""))
        known = embedding.seq < seen[0] or (embedding.seq, embedding.model_id) == seen
        self._newest[user_id] = seen if known else (embedding.seq, embedding.model_id)
        self._newest.move_to_end(user_id)
        if len(self._newest) > self._users_max:
            self._newest.popitem(last=False)
        return not known

    def forget(self, user_id: str) -> None:
        """The user was erased."""
        self._newest.pop(user_id, None)


class EmbeddingConsumer:
    """Reads committed embeddings, newest state per user, of one vector space.

    ``brokers`` are the addresses, or the whole section of settings where the broker wants TLS or a login.
    With a ``group_id`` the partitions are shared with the group's other members, and what was yielded is committed
    when the next records are asked for: at least once. Without one it reads all partitions, from now on or
    ``from_beginning``. ``space_id`` skips every other space; without it a second space raises `SpaceMixed`.
    ``users_max`` bounds the memory of what was seen (about 200 bytes each).
    """

    def __init__(
        self,
        brokers: str | Kafka,
        topic: str = "embeddings",
        *,
        group_id: str | None = None,
        from_beginning: bool = False,
        space_id: str | None = None,
        users_max: int = 1_000_000,
    ) -> None:
        self._kafka = Kafka(brokers=brokers) if isinstance(brokers, str) else brokers
        self._space_id = space_id
        self._skip_others = space_id is not None
        self._newest = NewestSeq(users_max)
        self._yielded: dict[TopicPartition, OffsetAndMetadata] = {}
        self._group_id = group_id
        options = {"group_id": group_id, "auto_offset_reset": "earliest" if from_beginning else "latest"}
        with broker_errors(self._kafka):
            self._consumer = KafkaConsumer(**consumer_arguments(self._kafka) | options)
            if group_id is None:
                self._assign_all(topic)
            else:
                self._consumer.subscribe([topic])

    def poll(self, timeout_s: float = 1.0) -> list[Embedding | Erased]:
        """The next records, erasures included; empty when none came in time.

        **Raises** `SpaceMixed`, `FormatUnknown`, `BrokerUnavailable`.
        """
        with broker_errors(self._kafka):
            self._commit()
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        changes = [change for records in batches.values() for change in map(decode, records) if self._is_news(change)]
        if self._group_id is not None:
            self._yielded = {tp: OffsetAndMetadata(records[-1].offset + 1, "", -1) for tp, records in batches.items()}
        return changes

    def __iter__(self) -> Iterator[Embedding]:
        """Embeddings as they come, without end; erasures come by `poll` only."""
        while True:
            yield from (change for change in self.poll() if isinstance(change, Embedding))

    def close(self) -> None:
        """Leave the group; records that were yielded last are not committed."""
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assign_all(self, topic: str) -> None:
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            self._consumer.close()
            raise ConfigInvalid(f"the topic does not exist: topic={topic}; set LURM_TOPICS__EMBEDDINGS")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        self._consumer.assign(partitions)
        for each in partitions:
            self._consumer.position(each)  # "from now on" means from here, not from the first poll

    def _commit(self) -> None:
        yielded, self._yielded = self._yielded, {}
        if not yielded:
            return
        try:
            self._consumer.commit(yielded)
        except _LOST_PARTITIONS:
            return

    def _is_news(self, change: Embedding | Erased) -> bool:
        if isinstance(change, Erased):
            self._newest.forget(change.user_id)
            return True
        if self._space_id is None:
            self._space_id = change.space_id
        if change.space_id == self._space_id:
            return self._newest.is_news(change)
        if self._skip_others:
            return False
        raise SpaceMixed(
            f"two vector spaces in one topic, their vectors cannot be compared: first={self._space_id} "
            f"second={change.space_id}; name the one to read (space_id, --space)"
        )
