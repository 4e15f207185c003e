"""A worker without broker and without Faust: the very code that ingests, commits, encodes and publishes, in a test.

State is a real RocksDB in a folder; topics are lists, written by producers in memory at the seam where transactions
begin. What is sent is applied at once and what is dirty is encoded when asked, so a test has no waiting in it.
"""

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from kafka.partitioner.default import murmur2

from lurm_model.bundle import Bundle
from lurm_model.inference.incremental import IncrementalEncoder
from state.options import StoreOptions, StoreResources
from state.record import Ledger, decode_record
from state.rows import RECORD_KEY
from state.store import BagStore
from state.walk import Output
from stream.kafka.source import Source
from stream.kafka.topics import MESSAGE_BYTES_MAX
from stream.metrics import WorkerMetrics
from stream.operations.bag_report import period_bags
from stream.partition.erased import continued
from stream.partition.erasing import Asked
from stream.partition.partition import Partition, Pipeline
from stream.partition.pipeline import Surroundings, pipeline
from stream.partition.reencode import Reencoder
from stream.records.embedding_record import Embedding, EmbeddingWriter
from stream.records.embedding_record import decode as decode_embedding
from stream.records.erasure import Marker, decode, encode
from stream.records.new_items import LearnedItems
from stream.records.outgoing import Outgoing
from stream.settings import Settings
from stream.testing.topics import MemoryProducer, StoredRecord, Topics

T = TypeVar("T")
Bags = dict[tuple[str, str], dict[int, int]]


class Harness:
    """All partitions of an application in one test: ``with Harness(bundle) as h: h.send({...}); h.encode()``.

    **Invariant**: after `restart`, whatever failed before, every event that was sent is counted exactly once.
    ``settings`` name the topics, their partitions and every limit; the broker in them is never asked.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.bundle = bundle
        self.settings = settings or Settings()
        self.topics = Topics(now_ms)
        self.metrics = WorkerMetrics()
        self.partitions: dict[int, Partition] = {}
        self.shared: Pipeline
        self.recovered = True
        self._now_ms = now_ms
        given = self.settings.state.dir
        self._temporary = given is None
        self._folder = Path(tempfile.mkdtemp(prefix="lurm-")) if given is None else given / self.settings.app.id
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()
        self._runner.close()
        if self._temporary:
            shutil.rmtree(self._folder)

    def send(self, *events: Mapping[str, Any]) -> None:
        """Append events to the topic, each under its ``user_id`` where Kafka's default partitioner puts it, and apply.

        **Raises** `TransactionFailed` when ``topics.failure`` asked for it: `restart` then.
        """
        for event in events:
            self.append(str(event.get("user_id", "")).encode(), json.dumps(event).encode())
        self.apply()

    def append(self, key: bytes | None, value: bytes | None) -> None:
        """Append a record of any bytes to the events topic; `apply` applies it."""
        number = (murmur2(key or b"") & 0x7FFFFFFF) % self.settings.topics.partitions
        self.topics.append(self.settings.topics.events, number, Outgoing(key, value), self._now_ms())

    def apply(self) -> None:
        """Apply whatever the events topic holds and no transaction has counted."""
        self._run(self._apply())

    def encode(self) -> None:
        """Encode and publish everybody who is dirty now; after a model change, everybody."""
        self._run(self._encode())

    def restart(self, bundle: Bundle | None = None, *, lose_disk: bool = False) -> None:
        """Die and start again, perhaps with another model or an empty disk; apply what was sent and not counted."""
        self._stop()
        self.bundle = bundle or self.bundle
        if lose_disk:
            shutil.rmtree(self._folder)
        self._start()
        self.apply()

    def erase(self, *user_ids: str) -> None:
        """As `lurm erase`: forget these users, and every event sent so far; what they do later is a new life."""
        for number, partition in self.partitions.items():
            newest = {each.key: each.value for each in self.topics.read(partition.names.embeddings, number)}
            for user in user_ids:
                is_shown = newest.get(user.encode()) is not None
                marker = Marker(uuid4().hex, user, self._end(number), is_shown, self._now_ms())
                said = Outgoing(marker.id.encode(), encode(marker))
                self.topics.append(partition.names.control, number, said, self._now_ms())
        for partition in self.partitions.values():
            self._run(self._erase(partition))

    def embedding(self, user_id: str) -> Embedding | None:
        """The user's newest published embedding; None if there is none, or the user was erased since."""
        found = None
        for record in self._committed(self.settings.topics.embeddings):
            if record.key == user_id.encode():
                read = decode_embedding(record)
                found = read if isinstance(read, Embedding) else None
        return found

    def bags(self, user_id: str) -> Bags:
        """The user's counts: (scale, period) -> interest -> count; months are whole whether or not rolled up."""
        found: Bags = {}
        for partition in self.partitions.values():
            users, rows = partition.store.read_users([user_id.encode()])
            bags = period_bags(users, rows, self.bundle.scales) if users else ()
            found |= {(bag.scale, bag.period): bag.interests for bag in bags}
        return found

    @property
    def dead_letters(self) -> list[StoredRecord]:
        """The rejected events, with the reason in their headers."""
        return self._committed(self.settings.topics.dead_letters)

    @property
    def ledger(self) -> Ledger:
        """What became of all events so far."""
        return sum((partition.record.ledger for partition in self.partitions.values()), Ledger())

    def _committed(self, topic: str) -> list[StoredRecord]:
        return [
            record for number in range(self.settings.topics.partitions) for record in self.topics.read(topic, number)
        ]

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def _start(self) -> None:
        async def source() -> Source:
            return Source(self.settings.topics.events, "in-memory", self.settings.topics.epoch)

        async def first_offsets() -> dict[int, int]:
            return {}

        async def output() -> Output:
            return Output(self.bundle.model_id, self.settings.topics.embeddings, "in-memory")

        around = Surroundings(source, output, first_offsets, MESSAGE_BYTES_MAX, self._now_ms)
        items = LearnedItems(self.bundle.codebook)
        self.shared = pipeline(self.settings, self.bundle, items, self.metrics, around)
        encoder = IncrementalEncoder(self.bundle, self.settings.model.device)
        encode = self.settings.encode
        writer = EmbeddingWriter(self.bundle.model_id, self.bundle.space_id, encode.dtype)
        self._reencoder = Reencoder(self, encoder, writer, encode.interval_s, encode.batch_users)
        self._resources = StoreResources(StoreOptions())
        self._run(self._recover())

    def _stop(self) -> None:
        self._reencoder.close()
        for partition in self.partitions.values():
            partition.store.close()
        self.partitions.clear()

    async def _recover(self) -> None:
        """As an assignment does: open, replay what the disk lacks, say which source is read."""
        source, output = await self.shared.source(), await self.shared.output()
        for number in range(self.settings.topics.partitions):
            store = self._replayed(number)
            names = (f"{self.settings.app.id}-{number}", f"{self.settings.app.id}-embeddings-{number}")
            rows, embeddings = (MemoryProducer(self.topics, name, number) for name in names)
            self.partitions[number] = partition = Partition(store, rows, embeddings, self.shared)
            partition.erased = continued(source, store.record, number)
            said = self.topics.read(self.settings.erasures_topic, number, partition.erased.next_offset)
            partition.erased.learn(said, partition.record.next_offset, self._end(number))
            await partition.activate(source, output, 0, lambda: True)
            await self._erase(partition)

    def _replayed(self, number: int) -> BagStore:
        store = BagStore.open_fresh(self._folder / f"partition-{number}", self._resources, time.time())
        changelog = self.topics.read(self.settings.changelog_topic, number)
        written = [record.value for record in changelog if record.key == RECORD_KEY and record.value is not None]
        if written:
            store.published = decode_record(written[-1]).published
        missing = changelog[store.changelog_offset + 1 :]
        if missing:
            store.replay([(each.key or b"", each.value, each.timestamp) for each in missing], missing[-1].offset)
        return store

    def _end(self, number: int) -> int:
        return self.topics.end(self.settings.topics.events, number)

    async def _erase(self, partition: Partition) -> None:
        """What the control topic asks for and the partition has not done."""
        waiting = self.topics.read(partition.names.control, partition.number, partition.record.control_offset)
        asked = [
            Asked(said, record.offset + 1) for record in waiting if isinstance(said := decode(record.value), Marker)
        ]
        await partition.erase(asked, lambda: True)

    async def _apply(self) -> None:
        for number, partition in self.partitions.items():
            waiting = self.topics.read(self.settings.topics.events, number, partition.record.next_offset)
            for start in range(0, len(waiting), self.settings.kafka.poll_events):
                batch = waiting[start : start + self.settings.kafka.poll_events]
                await partition.apply(batch, batch[-1].offset + 1)

    async def _encode(self) -> None:
        for partition in self.partitions.values():
            await self._reencoder.encode_all(partition)
