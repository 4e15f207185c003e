"""Following the embeddings topic: committed, newest per user, of one vector space, everything at least once.

What a record looks like, and the writer's side, is in `stream.records.embedding_record`, whose names are offered here
too. A change is an `Embedding`, or `Erased`: whoever keeps embeddings and ignores the latter keeps erased users.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
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
from stream.records.commit_note import CommitNote
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
from stream.settings import Kafka, Settings, validated

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

logger = logging.getLogger("lurm")

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
# A topic that was made anew, and partitions that were added, are noticed this soon.
_METADATA_AGE_MS = 10_000


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
    next loop, in this process or in the next, begins with it. So everything comes at least once. Only a handler's error
    that is caught within the block, which then ends without one, counts as handled: let it leave the block, or loop on.

    ``brokers`` are the addresses, or the whole section of settings where the broker wants TLS or a login. With a
    ``group_id`` the partitions are shared with the group's other members, and a restart goes on where it was; it has
    five minutes for a change or a batch. A new group, and whoever has no group, begins with the oldest record that the
    topic keeps, or from now on (``from_beginning=False``); a topic that is made anew later, and a partition that is
    added, is read from its beginning. ``space_id`` skips every other space; without it a second space raises
    `SpaceMixed`, at each start of a group that handled the first. ``users_max`` bounds the memory of what was seen
    (about 200 bytes each). What is no record of ours is skipped, counted in `n_foreign` and named in the log.

    **Raises** `ConfigInvalid` for addresses that are none, and when there is no such topic.
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
        self._kafka = validated({"kafka": {"brokers": brokers}}).kafka if isinstance(brokers, str) else brokers
        self._reading = _Changes(space_id, users_max)
        self._delivery: Delivery[Change] = Delivery(self._reading)
        self._group_id = group_id
        self._from_beginning = from_beginning
        self._topic, self._topic_id, self._places = topic, "", set[TopicPartition]()
        self._moved = Moved()
        self._gives_polls = False
        self._is_closed = False
        self._polled_at_s = time.monotonic()
        options = {
            "group_id": group_id,
            "metadata_max_age_ms": _METADATA_AGE_MS,
            "session_timeout_ms": int(self._kafka.session_timeout_s * 1000),
            "heartbeat_interval_ms": int(self._kafka.session_timeout_s * 100),
        }
        with broker_errors(self._kafka):
            self._consumer = KafkaConsumer(**consumer_arguments(self._kafka) | options)
            self._open()

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
        if n_max < 1:
            raise ValueError(f"a batch has at least one change: n_max={n_max}")
        self._begin(gives_polls=False)
        while True:
            batch = self._next(n_max, _POLL_S)
            until_s = time.monotonic() + wait_s
            while batch and len(batch) < n_max and (left_s := until_s - time.monotonic()) > 0:
                try:
                    batch += self._next(n_max - len(batch), left_s)
                except LurmError:
                    break  # what came before is given first, and the next look raises it again
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
        if self._is_closed:
            return
        self._is_closed = True
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
        try:
            self._fetch(0)
        finally:
            self._consumer.resume(*(paused & self._consumer.assignment()))

    def _fetch(self, timeout_s: float) -> None:
        with broker_errors(self._kafka, "Read"):
            # First, since partitions are given up while polling, and what is not committed then comes again.
            self._commit()
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_POLL_RECORDS)
            self._delivery.drop(self._moved.pop_lost())
            if self._follow_topic():
                batches = {}
            gained = self._moved.gained
            for place, records in batches.items():
                if place not in gained:
                    self._delivery.add(records)
            for place in gained & self._consumer.assignment():
                with suppress(*_NOT_COMMITTED):
                    self._begin_at_commit(place)
                    self._moved.settle(place)
        self._polled_at_s = time.monotonic()

    def _follow_topic(self) -> bool:
        """Whether the topic is another one of the name, all of which is read now; else only what was added to it."""
        topic_id, places = self._found()
        is_other = "" not in (topic_id, self._topic_id) and topic_id != self._topic_id
        if is_other:
            logger.warning(
                "the topic was made anew and is read from its beginning: topic=%s id=%s before=%s",
                self._topic, topic_id, self._topic_id,
            )  # fmt: skip
            # Offsets say nothing there, and nothing in it was there before.
            self._delivery.drop(self._places | places)
            self._from_beginning = True
        self._topic_id = topic_id or self._topic_id
        before = set() if is_other else self._consumer.assignment()
        if self._group_id is None and places:
            self._consumer.assign(sorted(places))
        elif not is_other:
            return False
        if new := self._consumer.assignment() - before:
            self._consumer.seek_to_beginning(*new)
        return is_other

    def _begin_at_commit(self, place: TopicPartition) -> None:
        """Read a partition from what was committed: the client goes on where it was in one that it had before.

        A group that begins "from now on" must find that place again when it is restarted before its first change.
        """
        committed = self._consumer.committed(place, metadata=True)
        note = CommitNote() if committed is None else CommitNote.decode(committed.metadata)
        self._reading.expect(note.space_id)
        is_of_another = "" not in (note.topic_id, self._topic_id) and note.topic_id != self._topic_id
        if committed is not None and not is_of_another:
            self._consumer.seek(place, committed.offset)
        elif is_of_another or self._from_beginning or place not in self._places:
            self._consumer.seek_to_beginning(place)
        else:
            end = self._consumer.end_offsets([place])[place]
            self._consumer.commit(self._noted({place: end}))
            self._consumer.seek(place, end)

    def _commit(self) -> None:
        offsets = self._delivery.handled if self._group_id is not None else {}
        if not offsets:
            return
        with suppress(*_NOT_COMMITTED):
            self._consumer.commit(self._noted(offsets))
            self._delivery.committed(offsets)

    def _noted(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        note = CommitNote(self._topic_id, self._reading.space_id or "").encode()
        return {place: OffsetAndMetadata(offset, note, -1) for place, offset in offsets.items()}

    def _open(self) -> None:
        if not self._consumer.partitions_for_topic(self._topic):
            self._consumer.close()
            # Who may not look is told so.
            n_partitions(Settings(kafka=self._kafka), self._topic)
            raise ConfigInvalid(f"the topic does not exist: topic={self._topic}; set LURM_TOPICS__EMBEDDINGS")
        self._topic_id, self._places = self._found()
        if self._group_id is not None:
            self._consumer.subscribe([self._topic], listener=self._moved)
            return
        self._consumer.assign(sorted(self._places))
        if not self._from_beginning:
            self._consumer.seek_to_end()
        for each in self._places:
            self._consumer.position(each)  # "from now on" means from here, not from the first poll

    def _found(self) -> tuple[str, set[TopicPartition]]:
        """The topic's id, empty where the broker gives none, and its partitions, as the client knows them now."""
        cluster = self._consumer._cluster  # noqa: SLF001 - it tells ids to nobody else
        topic_id = cluster.topic_id(self._topic)
        numbers = cluster.partitions_for_topic(self._topic) or ()
        return str(topic_id) if topic_id else "", {TopicPartition(self._topic, number) for number in numbers}


class _Changes:
    """What records mean to a reader of one vector space: None for those of others, stale ones and foreign ones."""

    def __init__(self, space_id: str | None, users_max: int) -> None:
        self.foreign = Foreign()
        self.space_id = space_id
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

    def expect(self, space_id: str) -> None:
        """What was handled before is of this space; empty where nobody says."""
        self.space_id = self.space_id or space_id or None

    def _is_of_space(self, embedding: Embedding) -> bool:
        if self.space_id is None:
            self.space_id = embedding.space_id
        if embedding.space_id == self.space_id or self._skips_others:
            return embedding.space_id == self.space_id
        raise SpaceMixed(
            f"two vector spaces in one topic, their vectors cannot be compared: first={self.space_id} "
            f"second={embedding.space_id}; name the one to read (space_id, --space)"
        )
