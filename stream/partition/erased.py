"""Up to which source offset the events of erased users are skipped in one partition, by the users' hashes.

What the erasures topic says of a partition is read before its first event is counted, and followed from then on. Only
what the partition has not passed is held: as a rule nothing, and then an event costs nothing. While something is held,
a batch costs one hash per user of it. Read also uncommitted: an erasure that was begun is repeated until it ends, and
no transaction that stays open hides one.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from aiokafka import TopicPartition

from state.record import PartitionRecord
from stream.kafka.connection import fetched_between, reading
from stream.kafka.source import Source
from stream.records.erasure import decode_erasure, digest_of
from stream.records.events import SourceRecord
from stream.settings import Kafka

logger = logging.getLogger("lurm")


class ErasureRecord(Protocol):
    """What we read of a Kafka record."""

    offset: int
    key: bytes | None
    value: bytes | None


class ErasedUsers:
    """Whose events one partition of ``source`` skips.

    Invariant: of every erasure below ``next_offset`` of the erasures topic ``topic_id`` the end is held, unless the
    partition has passed it.
    """

    def __init__(self, source: str, topic_id: str = "", next_offset: int = 0) -> None:
        self.source = source
        self.topic_id = topic_id
        self.next_offset = next_offset
        self._ends: dict[bytes, int] = {}
        self._last_end = 0

    def __len__(self) -> int:
        return len(self._ends)

    def learn(self, records: Iterable[ErasureRecord], passed: int, source_end: int) -> int:
        """Hold what these say; how many were no erasures. No end is taken to be behind that of the source."""
        n_bad = 0
        for record in records:
            self.next_offset = record.offset + 1
            known = decode_erasure(record.key, record.value)
            if known is None:
                n_bad += 1
            elif known.source == self.source:
                self._hold(known.digest, min(known.end_offset, source_end), passed)
        return n_bad

    def erase(self, user: bytes, end: int, passed: int) -> int:
        """Skip the user's events below ``end`` from now on, and below that of an earlier erasure: which it is."""
        digest = digest_of(self.source, user)
        self._hold(digest, end, passed)
        return self._ends.get(digest, end)

    def _hold(self, digest: bytes, end: int, passed: int) -> None:
        if end > max(passed, self._ends.get(digest, 0)):
            self._ends[digest] = end
            self._last_end = max(self._last_end, end)

    def follow(self, topic_id: str) -> None:
        """Read another topic of the name from its beginning; what the former said holds on here."""
        if "" not in (topic_id, self.topic_id) and topic_id != self.topic_id:
            logger.error("the erasures topic is another one, what the former said may be forgotten: id=%s", topic_id)
            self.next_offset = 0
        self.topic_id = topic_id or self.topic_id

    def still_counted(self, records: Sequence[SourceRecord]) -> Sequence[SourceRecord]:
        """The source records that no erasure skips, acceptable events or not: the key says whose they are."""
        if not records or not self._ends or records[0].offset >= self._last_end:
            return records
        source, get = self.source, self._ends.get
        users = {record.key for record in records if record.key is not None}
        limits: dict[bytes | None, int] = {user: end for user in users if (end := get(digest_of(source, user)))}
        if not limits:
            return records
        limit = limits.get
        return [record for record in records if record.offset >= limit(record.key, 0)]

    def noted(self) -> dict[str, str | int]:
        """What the partition record says of it: nothing new while something is held, which is read again then."""
        return {} if self._ends else {"erasures_id": self.topic_id, "erasures_offset": self.next_offset}

    def forget_passed(self, next_offset: int) -> None:
        """The partition has passed everything below this offset; the last of all ends goes with all others."""
        if self._ends and next_offset >= self._last_end:
            self._ends.clear()
            self._last_end = 0


def continued(source: Source, record: PartitionRecord | None, partition: int) -> ErasedUsers:
    """Nothing held yet, and from where on the erasures topic must be read for a partition with this record."""
    if record is None or source.begins(record):
        return ErasedUsers(source.name, source.erasures_id)
    if record.erasures_id not in ("", source.erasures_id):
        logger.error(
            "the erasures topic is another one, what the former said may be forgotten: partition=%d", partition
        )
    is_known = record.erasures_id == source.erasures_id
    return ErasedUsers(source.name, source.erasures_id, record.erasures_offset if is_known else 0)


async def read_erased(kafka: Kafka, topics: tuple[str, str], partitions: Mapping[int, tuple[ErasedUsers, int]]) -> int:
    """Let each partition learn what stands in the erasures topic; how many records were no erasures.

    ``topics``: the source and the erasures. With each partition comes how far it has passed.
    """
    source, erasures = topics
    wanted = {TopicPartition(erasures, number): held for number, held in partitions.items()}
    places = {number: TopicPartition(source, number) for number in partitions}
    n_bad = 0
    async with reading(kafka, "read_uncommitted", [*wanted, *places.values()]) as consumer:
        first = await consumer.beginning_offsets(list(wanted))
        ends = await consumer.end_offsets(list(wanted))
        # Asked after those: no erasure that is read names an end that is behind these.
        source_ends = await consumer.end_offsets(list(places.values()))
        spans = {}
        for each, (erased, _) in wanted.items():
            start = erased.next_offset if first[each] <= erased.next_offset <= ends[each] else first[each]
            spans[each] = (start, ends[each])
        async for each, record in fetched_between(consumer, spans):
            erased, passed = wanted[each]
            n_bad += erased.learn([record], passed, source_ends[places[each.partition]])
        for each, (erased, _) in wanted.items():
            erased.next_offset = ends[each]
    return n_bad
