"""One partition in this process: its real stores, `Partition` and `Reencoder`; of Kafka only what its topics hold.

Where a transaction of a producer begins is where the product ends here. It holds, waits and fences as Kafka does, and
every embedding that it commits is compared with the full encode of the user's plain events up to its ``seq``.
"""

import asyncio
import gc
import json
import math
import threading
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.events import day_rows
from lurm_model.inference.incremental import IncrementalEncoder
from state.history import resolve
from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY, format_scales
from state.record import Ledger, PartitionRecord
from state.store import BagStore
from state.walk import Output
from stream.kafka.source import Source
from stream.metrics import WorkerMetrics
from stream.operations.bag_report import period_bags
from stream.operations.comparison import relative_error
from stream.partition.erased import continued
from stream.partition.erasing import Asked
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition, Pipeline
from stream.partition.placement import Placement
from stream.partition.reencode import Reencoder
from stream.records import embedding_record
from stream.records.embedding_record import EmbeddingWriter, Erased
from stream.records.erasure import Answer, Marker, decode
from stream.records.events import EventDecoder, Limits
from stream.settings import Kafka
from tests.plain import PlainEvent, bags
from tests.pretended_topics import NAMES, Gate, Producer, Topics

TOLERANCE = 1e-5
# Not so long ago that a disk would be wiped, and behind every event.
NOW_MS = int(time.time() * 1000)
# No event is in the future.
LATER_MS = 4_000_000_000_000
RESOURCES = StoreResources(StoreOptions(cache_bytes=1 << 20, memtable_bytes=8 << 20))
CHANGELOG_ID, SOURCE_ID = "changelog-id", "source-id"
# Walks and cycles have steps between which something else happens.
BATCH_USERS = 1


async def changelog_id() -> str:
    """There is one."""
    return CHANGELOG_ID


class Model(NamedTuple):
    """A bundle, and what encodes with it."""

    bundle: Bundle
    encoder: IncrementalEncoder


class Disk:
    """A worker: its disk, and its process while it runs."""

    def __init__(self, path: Path, topics: Topics, model: Model) -> None:
        self.path, self.topics, self.model = path, topics, model
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
        bundle = self.model.bundle
        writer = EmbeddingWriter(bundle.model_id, bundle.space_id, "float32")
        self._reencoder = Reencoder(self._ownership, self.model.encoder, writer, 0.0, BATCH_USERS)
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
        source = await shared.source()
        partition.erased = continued(source, self.store.record, 0)
        erasures = self.topics.erasures_since(partition.erased.next_offset)
        partition.erased.learn(erasures, partition.record.next_offset, self.topics.source_end)
        await partition.activate(source, await shared.output(), 0, lambda: True)
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

    async def walk_on(self, *, noted: bool) -> None:
        """A batch of the walk that is under way, if one is; the record says so at once, or only later."""
        assert self._reencoder is not None
        await self.end_encode()
        self.partition._noted_at_s = -math.inf if noted else math.inf
        await self._reencoder._sweep_until(self.partition, -math.inf)

    async def look_at_output(self) -> None:
        """Where embeddings go now; an encode in flight is ended before a walk begins."""
        looking = asyncio.create_task(self.partition.aim(await self.ownership.shared.output(), lambda: True))
        await self.end_encode()
        await looking

    async def erase_asked(self) -> None:
        """Do what the control topic asks for, behind an encode in flight."""
        asked = [Asked(*each) for each in self.topics.asked_since(self.partition.record.control_offset)]
        erasing = asyncio.create_task(self.partition.erase(asked, lambda: True))
        try:
            await self.end_encode()
        finally:
            await erasing

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
        bundle = self.model.bundle

        async def source() -> Source:
            return Source("events", SOURCE_ID, 0, "erasures-id")

        async def output() -> Output:
            return Output(bundle.model_id, NAMES.embeddings, self.topics.embeddings_id)

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

    def __init__(self, folder: Path, models: Sequence[Model], n_disks: int = 2) -> None:
        self.topics = Topics(on_embedding=self._check, on_answer=self._note_erased)
        self.events: list[PlainEvent] = []
        self.n_checked = 0
        self._models = {model.bundle.model_id: model for model in models}
        self._asked: dict[str, Marker] = {}
        self._erased_below: dict[bytes, int] = {}
        self._scales = models[0].bundle.scales
        self.disks = [Disk(folder / str(i), self.topics, models[0]) for i in range(n_disks)]
        self.owner = self.disks[0]
        self.loop = asyncio.new_event_loop()
        self.owner.start()
        self.run(self.owner.own())

    def run(self, step: Awaitable[object]) -> None:
        self.loop.run_until_complete(step)

    def send(self, *events: PlainEvent) -> None:
        """Put events into the source topic; they are read with the next `apply`."""
        self.events += events
        self.topics.source_end = len(self.events)

    def ask_to_erase(self, user: bytes) -> None:
        """As `lurm erase` does: everything of the user that stands in the source by now."""
        marker = Marker(
            f"{len(self._asked):032x}", user.decode(), len(self.events), user in self.topics.shown, NOW_MS, SOURCE_ID
        )
        self._asked[marker.id] = marker
        self.topics.ask(marker)

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
        """What a user did since the last erasure, up to a ``seq``."""
        upto = len(self.events) if upto is None else upto + 1
        return [event for event in self.events[self._erased_below.get(user, 0) : upto] if event.user == user]

    def _note_erased(self, record: Any) -> None:
        answer = decode(record.value)
        if isinstance(answer, Answer):
            marker = self._asked[answer.id]
            below = max(marker.end_offset, self.owner.partition.record.next_offset)
            assert answer.erased_below == below, (answer, marker)
            self._erased_below[marker.user.encode()] = below

    def _check(self, record: Any) -> None:
        found = embedding_record.decode(
            SimpleNamespace(key=record.key, value=record.value, headers=record.headers or ())
        )
        if isinstance(found, Erased):
            return
        counted = self.of(record.key, found.seq)
        assert counted, f"an erased user is published: {found}"
        encoder = self._models[found.model_id].encoder
        error = relative_error(found.vectors.astype(np.float64), self.full(counted, encoder))
        assert error < TOLERANCE, f"user={found.user_id} seq={found.seq} error={error}"
        self.n_checked += 1

    def full(self, events: Sequence[PlainEvent], encoder: IncrementalEncoder) -> Any:
        """The vectors of one user's events, by the full encode: float64[M, H]."""
        ts_ms, interest, weight = (
            np.array(column, np.int64) for column in zip(*[e[2:3] + e[1:2] + e[3:] for e in events], strict=True)
        )
        rows = day_rows(np.zeros(len(events), np.int64), ts_ms, interest, weight)
        return encoder.encode(resolve(rows, self._scales, 1), 1)[0].astype(np.float64)

    def check_counts(self, disk: Disk) -> None:
        """The bags in a disk's store are those of the events, each counted once."""
        users, rows = disk.store.read_users(disk.store.users_after(b"", 100))
        found = {
            (bag.user_id.encode(), bag.scale, bag.period): bag.interests
            for bag in period_bags(users, rows, self._scales)
        }
        known = {event.user for event in self.events}
        expected = bags([event for user in known for event in self.of(user)], self._scales)
        ledger = disk.store.record.ledger if disk.store.record is not None else Ledger()
        assert ledger.balanced, ledger
        assert ledger.received == len(self.events), ledger
        assert found == expected, {
            k: (found.get(k), expected.get(k)) for k in {*found, *expected} if found.get(k) != expected.get(k)
        }

    def check_published(self) -> None:
        """Everybody's newest embedding is of the newest event and the owner's model, and nobody's else is there.

        That each is right was checked when it was committed.
        """
        shown = {user: dict(record.headers) for user, record in self.topics.shown.items()}
        found = {user: (int(said["seq"]), said["model_id"].decode()) for user, said in shown.items()}
        model_id = self.owner.model.bundle.model_id
        expected = {
            event.user: (seq, model_id)
            for seq, event in enumerate(self.events)
            if seq >= self._erased_below.get(event.user, 0)
        }
        assert found == expected, (found, expected)

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
