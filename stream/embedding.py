"""Following the embeddings topic: committed, newest per user, of one vector space, everything at least once.

What a record looks like, and the writer's side, is in `stream.records.embedding_record`, whose names are offered here
too. A change is an `Embedding`, or `Erased`: whoever keeps embeddings and ignores the latter keeps erased users.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from stream.errors import ConfigInvalid, LurmError, SpaceMixed
from stream.kafka.connection import broker_errors, consumer_arguments
from stream.kafka.delivery import Delivery, Moved
from stream.kafka.topics import n_partitions
from stream.records.embedding_record import (
    Embedding,
    EmbeddingWriter,
    Erased,
    Foreign,
    decode,
    encode_value,
    headers_of,
    shared_headers,
)
from stream.settings import Kafka, Settings

__all__ = [
    "Change",
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

Change = Embedding | Erased

# Whoever lost its partitions meanwhile cannot commit them: the new owner reads those records again. A broker that does
# not answer is asked again with the next commit.
_NOT_COMMITTED = (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
_POLL_S = 1.0
_POLL_RECORDS = 500
# Who handles one change after the other shows the group so often that it is there, and lets others join.
_SILENT_S = 3.0


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
    """Follows what is published of users: a new `Embedding`, or `Erased`, in order within a partition.

    ``for change in consumer`` gives one change after the other without end, `batches` many at once. A change is handled
    when the next one is asked for, or when the ``with`` block is left without an error; what is handled is committed,
    and nothing else. A loop that ends early, by an error or otherwise, did not handle its last change (or batch): the
    next loop, in this process or in the next, begins with it. So everything comes at least once.

    ``brokers`` are the addresses, or the whole section of settings where the broker wants TLS or a login. With a
    ``group_id`` the partitions are shared with the group's other members, and a restart goes on where it was; it has
    five minutes for a change or a batch. A new group, and whoever has no group, begins with the oldest record that the
    topic keeps, or from now on (``from_beginning=False``). ``space_id`` skips every other space; without it a second
    space raises `SpaceMixed`. ``users_max`` bounds the memory of what was seen (about 200 bytes each). What is no
    record of ours is skipped, counted in `n_foreign` and named in the log (``lurm``).
    """

    def __init__(
        self,
        brokers: str | Kafka,
        topic: str = "embeddings",
        *,
        group_id: str | None = None,
        from_beginning: bool = True,
        space_id: str | None = None,
        users_max: int = 1_000_000,
    ) -> None:
        self._kafka = Kafka(brokers=brokers) if isinstance(brokers, str) else brokers
        self._reading = _Changes(space_id, users_max)
        self._delivery: Delivery[Change] = Delivery(self._reading)
        self._group_id = group_id
        self._from_beginning = from_beginning
        self._moved = Moved()
        self._gives_polls = False
        self._polled_at_s = time.monotonic()
        options = {
            "group_id": group_id,
            "auto_offset_reset": "earliest" if from_beginning else "latest",
            "session_timeout_ms": int(self._kafka.session_timeout_s * 1000),
            "heartbeat_interval_ms": int(self._kafka.session_timeout_s * 100),
        }
        with broker_errors(self._kafka):
            self._consumer = KafkaConsumer(**consumer_arguments(self._kafka) | options)
            if group_id is None:
                self._assign_all(topic)
            else:
                self._consumer.subscribe([topic], listener=self._moved)

    @property
    def n_foreign(self) -> int:
        """How many records were none of ours, and skipped."""
        return self._reading.foreign.n

    def __iter__(self) -> Iterator[Change]:
        """Changes as they come, without end. **Raises** as `poll`."""
        for changes in self.batches(1):
            yield from changes

    def batches(self, n_max: int = 500, wait_s: float = 0.5) -> Iterator[list[Change]]:
        """Changes without end: ``n_max`` at once, or what came within ``wait_s`` of the first. **Raises** as `poll`."""
        self._begin(gives_polls=False)
        while True:
            batch = self._next(n_max, _POLL_S)
            until_s = time.monotonic() + wait_s
            while batch and len(batch) < n_max and (left_s := until_s - time.monotonic()) > 0:
                batch += self._next(n_max - len(batch), left_s)
            if batch:
                yield batch
                self._delivery.handle()

    def poll(self, timeout_s: float = 1.0) -> list[Change]:
        """The next changes; empty when none came in time. Those of the poll before are handled.

        **Raises** `SpaceMixed`, `BrokerUnavailable`.
        """
        self._begin(gives_polls=True)
        until_s = time.monotonic() + timeout_s
        while True:
            changes = self._next(_POLL_RECORDS, max(0.0, until_s - time.monotonic()))
            if changes or time.monotonic() >= until_s:
                return changes

    def close(self) -> None:
        """Commit what was handled, and leave the group; what was given last is not handled."""
        try:
            with broker_errors(self._kafka):
                self._commit()
        finally:
            self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._delivery.handle()
            self.close()
            return
        with suppress(LurmError):  # the first error is the one to tell
            self.close()

    def _begin(self, *, gives_polls: bool) -> None:
        """Another way of asking, or another loop, says nothing of what was given before; another poll does."""
        if gives_polls and self._gives_polls:
            self._delivery.handle()
        else:
            self._delivery.give_back()
        self._gives_polls = gives_polls

    def _next(self, n_max: int, timeout_s: float) -> list[Change]:
        """The next changes, which are given now; none when none came in time."""
        if self._delivery.n_waiting and time.monotonic() - self._polled_at_s > _SILENT_S:
            self._show_up()
        changes = self._delivery.take(n_max)
        if changes:
            return changes
        self._fetch(timeout_s)
        return self._delivery.take(n_max)

    def _show_up(self) -> None:
        """Stay in the group, and let it share the partitions anew, while what was fetched is being handled."""
        paused = self._consumer.assignment()
        self._consumer.pause(*paused)
        self._fetch(0)
        self._consumer.resume(*(paused & self._consumer.assignment()))

    def _fetch(self, timeout_s: float) -> None:
        with broker_errors(self._kafka, "Read"):
            # First, since partitions are given up while polling, and what is not committed then comes again.
            self._commit()
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_POLL_RECORDS)
            self._delivery.drop(self._moved.pop_lost())
            gained = self._moved.gained
            for place, records in batches.items():
                if place not in gained:
                    self._delivery.add(records)
            for place in gained & self._consumer.assignment():
                self._begin_at_commit(place, batches.get(place, ()))
                self._moved.settle(place)
        self._polled_at_s = time.monotonic()

    def _begin_at_commit(self, place: TopicPartition, records: Sequence[Any]) -> None:
        """Read a partition from what was committed: the client goes on where it was in one that it had before.

        A group that begins "from now on" must find that place again when it is restarted before its first change.
        """
        offset = self._consumer.committed(place)
        if offset is None and self._from_beginning:
            self._consumer.seek_to_beginning(place)
            return
        if offset is None:
            offset = records[0].offset if records else self._consumer.position(place)
            self._consumer.commit({place: OffsetAndMetadata(offset, "", -1)})
        self._consumer.seek(place, offset)

    def _commit(self) -> None:
        offsets = self._delivery.handled if self._group_id is not None else {}
        if not offsets:
            return
        with suppress(*_NOT_COMMITTED):
            self._consumer.commit({each: OffsetAndMetadata(offset, "", -1) for each, offset in offsets.items()})
            self._delivery.committed(offsets)

    def _assign_all(self, topic: str) -> None:
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            self._consumer.close()
            # Who may not look is told so.
            n_partitions(Settings(kafka=self._kafka), topic)
            raise ConfigInvalid(f"the topic does not exist: topic={topic}; set LURM_TOPICS__EMBEDDINGS")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        self._consumer.assign(partitions)
        for each in partitions:
            self._consumer.position(each)  # "from now on" means from here, not from the first poll


class _Changes:
    """What records mean to a reader of one vector space: None for those of others, stale ones and foreign ones."""

    def __init__(self, space_id: str | None, users_max: int) -> None:
        self.foreign = Foreign()
        self._space_id = space_id
        self._skips_others = space_id is not None
        self._newest = NewestSeq(users_max)

    def understand(self, record: Any) -> Change | None:
        """**Raises** `SpaceMixed`."""
        change = self.foreign.decode(record)
        if isinstance(change, Erased):
            self._newest.forget(change.user_id)
            return change
        is_news = change is not None and self._is_of_space(change) and self._newest.is_news(change)
        return change if is_news else None

    def unsee(self, change: Change) -> None:
        """It comes again, and is news then."""
        self._newest.forget(change.user_id)

    def _is_of_space(self, embedding: Embedding) -> bool:
        if self._space_id is None:
            self._space_id = embedding.space_id
        if embedding.space_id == self._space_id or self._skips_others:
            return embedding.space_id == self._space_id
        raise SpaceMixed(
            f"two vector spaces in one topic, their vectors cannot be compared: first={self._space_id} "
            f"second={embedding.space_id}; name the one to read (space_id, --space)"
        )
