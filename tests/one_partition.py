"""One partition in this process: its real stores, `Partition` and `Reencoder`; of Kafka only what its topics hold.

Where a transaction of a producer begins is where the product ends here. It holds, waits and fences as Kafka does, and
every embedding that it commits is compared with the full encode of the user's plain events up to its ``seq``.
"""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from aiokafka.errors import ProducerFenced

from lurm_model.bundle import Bundle
from lurm_model.events import day_rows
from lurm_model.inference.incremental import IncrementalEncoder
from state.history import resolve
from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY, format_scales
from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY
from state.store import BagStore
from state.walk import Output
from stream.failpoints import passing
from stream.kafka.source import Source
from stream.kafka.watermark import Newest
from stream.metrics import WorkerMetrics
from stream.operations.bag_report import period_bags
from stream.operations.comparison import relative_error
from stream.partition.ownership import Ownership
from stream.partition.partition import Names, Partition, Pipeline
from stream.partition.placement import Placement
from stream.partition.reencode import Reencoder
from stream.records import embedding_record
from stream.records.embedding_record import EmbeddingWriter, Erased
from stream.records.events import EventDecoder, Limits
from stream.settings import Kafka
from tests.plain import Bags, PlainEvent, bags

TOLERANCE = 1e-5
# Not so long ago that a disk would be wiped, and behind every event.
NOW_MS = int(time.time() * 1000)
# No event is in the future.
LATER_MS = 4_000_000_000_000
RESOURCES = StoreResources(StoreOptions(cache_bytes=1 << 20, memtable_bytes=8 << 20))
NAMES = Names(*("events", "changelog", "dead-letters", "embeddings", "control", "erasures", "app"))

CHANGELOG_ID = "changelog-id"


async def changelog_id() -> str:
    """There is one."""
    return CHANGELOG_ID


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
    written: dict[str, list[Any]] = field(default_factory=lambda: {NAMES.dead_letters: [], NAMES.embeddings: []})
    owner: object = None
    on_embedding: Callable[[Any], None] = lambda _: None

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
                self.written.setdefault(topic, []).extend(records)
                last[topic] = len(self.written[topic]) - 1
        for record in outputs.get(NAMES.embeddings, ()):
            self.on_embedding(record)
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


class Disk:
    """A worker: its disk, and its process while it runs."""

    def __init__(self, path: Path, topics: Topics, bundle: Bundle, encoder: IncrementalEncoder) -> None:
        self.path, self.topics = path, topics
        self._bundle, self._encoder = bundle, encoder
        self._ownership: Ownership | None = None
        self._reencoder: Reencoder | None = None
        self._encode: asyncio.Task[object] | None = None
        self._may_read = threading.Event()
        self._gates: dict[str, Gate] = {}

    @property
    def ownership(self) -> Ownership:
        assert self._ownership is not None, "it does not run"
        return self._ownership

    @property
    def partition(self) -> Partition:
        return self.ownership.partitions[0]

    @property
    def store(self) -> BagStore:
        return self.ownership.store(0)

    @property
    def runs(self) -> bool:
        return self._ownership is not None

    @property
    def encodes(self) -> bool:
        return self._encode is not None

    def start(self) -> None:
        """A process without the partition."""
        self._ownership = Ownership(self.path, RESOURCES, Kafka(brokers="nobody:1"), self._pipeline(), changelog_id)
        self._ownership._allowed = {0}
        writer = EmbeddingWriter(self._bundle.model_id, self._bundle.space_id, "float32")
        self._reencoder = Reencoder(self._ownership, self._encoder, writer, 0.0, 4096)
        opened = BagStore.open_fresh(self.path / "partition-0", RESOURCES, time.time())
        self._ownership._stores[0] = self._ownership._continued(opened, CHANGELOG_ID, self.topics.newest_record)

    async def stand_by(self, share: float = 1.0, *, compacted: bool = False) -> None:
        """Apply this share of what its store lacks of the changelog."""
        lacking = self.topics.replayable(self.store.changelog_offset, compacted=compacted)
        lacking = lacking[: round(share * len(lacking))]
        for start in range(0, len(lacking), 5):
            piece = lacking[start : start + 5]
            self.store.replay([(entry.key, entry.value, NOW_MS) for entry in piece], piece[-1].offset)

    async def own(self, *, compacted: bool = False) -> None:
        """Fence whoever has the partition, recover it and go on with it."""
        owner = self.topics.owner = object()
        await self.stand_by(compacted=compacted)
        if self.topics.changelog_end - 1 > self.store.changelog_offset >= 0:
            self.store.replay([], self.topics.changelog_end - 1)
        producers = Producer(self.topics, owner, self._gates), Producer(self.topics, owner, self._gates)
        shared = self.ownership.shared
        partition = Partition(self.store, *producers, shared)
        self.ownership.partitions[0] = partition
        await partition.activate(await shared.source(), await shared.output(), 0, lambda: True)
        self.ownership.recovered = True

    async def give_up(self) -> None:
        """A rebalance takes the partition; the store stays open, as a standby's."""
        await self.end_encode()
        await self.ownership.drain()
        del self.ownership.partitions[0]

    async def begin_encode(self, *, before: str) -> None:
        """Encode a batch, up to before its view is ``read`` or its vectors are ``written``."""
        assert self._reencoder is not None
        self._may_read.clear()
        gate = self._gates["encode"] = Gate()
        if before == "read":
            self._reencoder._threads.submit(self._may_read.wait)
        self._encode = asyncio.create_task(self._batch(self._reencoder))
        if before == "read":
            for _ in range(5):
                await asyncio.sleep(0)
        else:
            reached = asyncio.create_task(gate.reached.wait())
            await asyncio.wait([self._encode, reached], return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()

    async def _batch(self, reencoder: Reencoder) -> None:
        async with self.partition.encoding:
            await reencoder._encode_and_publish(self.partition)

    async def end_encode(self) -> None:
        """Let the batch be published, its days rolled up and its marks cleared."""
        if self._encode is None:
            return
        self._may_read.set()
        self._gates.pop("encode").opened.set()
        task, self._encode = self._encode, None
        await task

    async def encode_all(self) -> None:
        """Until nobody is dirty, as cycles do."""
        await self.end_encode()
        while n_dirty := len(self.store.marks):
            await self.begin_encode(before="written")
            await self.end_encode()
            assert len(self.store.marks) < n_dirty, "who was encoded is still marked"

    async def kill(self) -> None:
        """The process is gone, wherever it was."""
        if self._encode is not None:
            self._may_read.set()
            self._encode.cancel()
            await asyncio.gather(self._encode, return_exceptions=True)
            self._encode = None
        self._gates.clear()
        if self._reencoder is not None:
            self._reencoder._threads.shutdown()
        if self._ownership is not None:
            self._ownership.store(0).close()
        self._ownership = self._reencoder = None
        # What a failed step held of the database, in the frames of its traceback, keeps the lock.
        gc.collect()

    def _pipeline(self) -> Pipeline:
        bundle = self._bundle

        async def source() -> Source:
            return Source("events", "id", 0)

        async def output() -> Output:
            return Output(bundle.model_id, NAMES.embeddings, "id")

        async def first_offsets() -> dict[int, int]:
            return {0: 0}

        return Pipeline(
            names=NAMES,
            source=source,
            output=output,
            first_offsets=first_offsets,
            decoder=EventDecoder(bundle.codebook, {"buy": 3}, Limits(10_000, 0, 0)),
            placement=Placement("events", 1, "any", WorkerMetrics()),
            scales=bundle.scales,
            empty_record=PartitionRecord(bundle.codebook.interest_space_id, format_scales(bundle.scales)),
            dead_letter_bytes_max=1 << 20,
            metrics=WorkerMetrics(),
            now_ms=lambda: LATER_MS,
        )


class OnePartition:
    """The topics of one partition, the plain events in them, and the disks of its workers; the first owns it."""

    def __init__(self, folder: Path, bundle: Bundle, encoder: IncrementalEncoder, n_disks: int = 2) -> None:
        self.topics = Topics(on_embedding=self._check)
        self.events: list[PlainEvent] = []
        self.n_checked = 0
        self._scales, self._encoder = bundle.scales, encoder
        self.disks = [Disk(folder / str(i), self.topics, bundle, encoder) for i in range(n_disks)]
        self.owner = self.disks[0]
        self.loop = asyncio.new_event_loop()
        self.owner.start()
        self.run(self.owner.own())

    def run(self, step: Awaitable[object]) -> None:
        self.loop.run_until_complete(step)

    def send(self, *events: PlainEvent) -> None:
        """Put events into the source topic; they are read with the next `apply`."""
        self.events += events

    def apply(self, *events: PlainEvent) -> None:
        """One batch of all that is not applied yet, and these."""
        self.send(*events)
        start = self.owner.partition.record.next_offset
        records = [record_of(start + i, event) for i, event in enumerate(self.events[start:])]
        self.run(self.owner.partition.apply(records, len(self.events)))

    def days(self, user: bytes) -> set[int]:
        """The days on which a user was active."""
        return {event.ts_ms // MS_PER_DAY for event in self.of(user)}

    def of(self, user: bytes, upto: int | None = None) -> list[PlainEvent]:
        """What a user did, up to a ``seq``."""
        upto = len(self.events) if upto is None else upto + 1
        return [event for event in self.events[:upto] if event.user == user]

    def _check(self, record: Any) -> None:
        found = embedding_record.decode(
            SimpleNamespace(key=record.key, value=record.value, headers=record.headers or ())
        )
        if isinstance(found, Erased):
            return
        counted = self.of(record.key, found.seq)
        assert counted, f"an erased user is published: {found}"
        error = relative_error(found.vectors.astype(np.float64), self.full(counted))
        assert error < TOLERANCE, f"user={found.user_id} seq={found.seq} error={error}"
        self.n_checked += 1

    def full(self, events: Sequence[PlainEvent]) -> Any:
        """The vectors of one user's events, by the full encode: float64[M, H]."""
        ts_ms, interest, weight = (
            np.array(column, np.int64) for column in zip(*[e[2:3] + e[1:2] + e[3:] for e in events], strict=True)
        )
        rows = day_rows(np.zeros(len(events), np.int64), ts_ms, interest, weight)
        return self._encoder.encode(resolve(rows, self._scales, 1), 1)[0].astype(np.float64)

    def check_counts(self, disk: Disk) -> None:
        """The bags in a disk's store are those of the events, each counted once."""
        users, rows = disk.store.read_users(disk.store.users_after(b"", 100))
        found = {
            (bag.user_id.encode(), bag.scale, bag.period): bag.interests
            for bag in period_bags(users, rows, self._scales)
        }
        expected = self.plain_bags
        assert found == expected, {
            k: (found.get(k), expected.get(k)) for k in {*found, *expected} if found.get(k) != expected.get(k)
        }

    @property
    def plain_bags(self) -> Bags:
        known = {event.user for event in self.events}
        return bags([event for user in known for event in self.of(user)], self._scales)

    def check_published(self) -> None:
        """Everybody's newest embedding is of the newest event; that it is right was checked when it was committed."""
        newest: dict[bytes, int | None] = {}
        for record in self.topics.written[NAMES.embeddings]:
            headers = dict(record.headers or ())
            newest[record.key] = None if record.value is None else int(headers["seq"])
        shown = {user: seq for user, seq in newest.items() if seq is not None}
        expected = {event.user: seq for seq, event in enumerate(self.events)}
        assert shown == expected, (shown, expected)

    def close(self) -> None:
        for disk in self.disks:
            self.run(disk.kill())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def record_of(offset: int, event: PlainEvent) -> Any:
    """An event as it stands in the source topic."""
    value = {
        "user_id": event.user.decode(),
        "item_id": f"item-{event.interest}",
        "ts": event.ts_ms,
        "type": "buy" if event.weight == 3 else "view",
    }
    return SimpleNamespace(offset=offset, timestamp=0, key=event.user, value=json.dumps(value).encode(), headers=())


def on_day(user: bytes, day: int, interest: int = 0, weight: int = 1) -> PlainEvent:
    """An event of a day."""
    return PlainEvent(user, interest, day * MS_PER_DAY, weight)
