"""What Kafka holds of one partition, and a producer that writes to it: it holds, waits and fences as Kafka does."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiokafka.errors import ProducerFenced

from state.record import decode_record
from state.rows import RECORD_KEY
from stream.failpoints import passing
from stream.kafka.watermark import Newest
from stream.partition.partition import Names
from stream.records.erasure import Marker, decode, encode

NAMES = Names(*("events", "changelog", "dead-letters", "embeddings", "control", "erasures", "app"))


class Entry(NamedTuple):
    """A committed record of the changelog."""

    offset: int
    key: bytes
    value: bytes | None


@dataclass
class Topics:
    """What Kafka holds of the partition, and who may write to it."""

    changelog: list[Entry] = field(default_factory=list)
    changelog_end: int = 0
    written: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in astuple(NAMES)})
    owner: object = None
    n_made: int = 0
    source_end: int = 0
    on_embedding: Callable[[Any], None] = lambda _: None
    on_answer: Callable[[Any], None] = lambda _: None

    @property
    def embeddings_id(self) -> str:
        """The id of the embeddings topic of now."""
        return f"id-{self.n_made}"

    def make_embeddings_anew(self) -> None:
        """Another topic of the name, and nothing in it."""
        self.written[NAMES.embeddings] = []
        self.n_made += 1

    @property
    def shown(self) -> dict[bytes, Any]:
        """The newest embedding of everybody who has one."""
        newest = {record.key: record for record in self.written[NAMES.embeddings]}
        return {user: record for user, record in newest.items() if record.value is not None}

    def ask(self, marker: Marker) -> None:
        """Put a marker into the control topic."""
        self.written[NAMES.control].append(SimpleNamespace(key=marker.id.encode(), value=encode(marker)))

    def asked_since(self, offset: int) -> list[tuple[Marker, int]]:
        """The markers from an offset of the control topic on, and the offset after each."""
        found = [(decode(record.value), i) for i, record in enumerate(self.written[NAMES.control][offset:], offset + 1)]
        return [(said, after) for said, after in found if isinstance(said, Marker)]

    def erasures_since(self, offset: int) -> list[Any]:
        """The records of the erasures topic from an offset on, as a consumer gives them."""
        records = self.written[NAMES.erasures][offset:]
        return [SimpleNamespace(offset=i, key=each.key, value=each.value) for i, each in enumerate(records, offset)]

    def commit(self, outputs: Mapping[str, Sequence[Any]]) -> dict[str, int]:
        """One transaction; the offset of the last record of each topic. Its end takes an offset too."""
        last = {}
        for topic, records in outputs.items():
            if topic == NAMES.changelog:
                self.changelog += [
                    Entry(self.changelog_end + i, record.key, record.value) for i, record in enumerate(records)
                ]
                last[topic] = self.changelog_end + len(records) - 1
                self.changelog_end += len(records) + 1
            elif records:
                self.written[topic] += records
                last[topic] = len(self.written[topic]) - 1
        for record in outputs.get(NAMES.embeddings, ()):
            self.on_embedding(record)
        for record in outputs.get(NAMES.control, ()):
            self.on_answer(record)
        return last

    def replayable(self, applied: int, *, compacted: bool) -> list[Entry]:
        """What a disk lacks: everything, or what compaction leaves, which is the newest record of each key."""
        newest = {entry.key: entry.offset for entry in self.changelog}
        return [
            entry
            for entry in self.changelog
            if entry.offset > applied and (not compacted or newest[entry.key] == entry.offset)
        ]

    @property
    def newest_record(self) -> Newest | None:
        """As `stream.kafka.watermark` finds it."""
        for entry in reversed(self.changelog):
            if entry.key == RECORD_KEY:
                return Newest(decode_record(entry.value or b""), entry.offset, self.changelog_end)
        return None


@dataclass
class Gate:
    """Where a transaction waits before it is sent."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Producer:
    """What `Partition` asks of a transactional producer."""

    partition, id, in_flight, n_done, dead, idle_s = 0, "app-0", False, 0, False, 0.0

    def __init__(self, topics: Topics, owner: object, gates: "dict[str, Gate]") -> None:
        self._topics, self._owner, self._gates = topics, owner, gates

    async def end_hanging(self, topics: Sequence[str], *, commit: bool) -> None:
        """None is ever left open."""

    async def transact(
        self, cause: str, outputs: Mapping[str, Sequence[Any]], timestamp_ms: int, source: object = None
    ) -> dict[str, int]:
        """As `TransactionalProducer.transact`; waits at the gate of its cause, if there is one."""
        del timestamp_ms
        topics = self._topics
        if cause in self._gates:
            self._gates[cause].reached.set()
            await self._gates[cause].opened.wait()
        passing(f"{cause}.sent")
        if source is not None:
            passing(f"{cause}.offset_sent")
        if topics.owner is not self._owner:
            raise ProducerFenced
        last = topics.commit(outputs)
        passing(f"{cause}.committed")
        return last

    def begin_topic(self, topic: str, after: int = -1) -> None:
        """Nothing is known of what was written."""

    async def stop(self) -> None:
        """Nothing is connected."""
