"""Any interleaving of models, topics, crashes and take-overs: at the end everybody's embedding is the newest model's.

A partition and its encode cycles are the worker's own, on real databases; Kafka is a list for the changelog and a
dictionary for each embeddings topic. A transaction that dies leaves all of it or nothing.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lurm_model.inference.incremental import IncrementalEncoder
from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY
from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY, decode_header, user_of
from state.store import BagStore
from state.walk import Output
from stream.kafka.source import Source
from stream.kafka.transactions import TopicWentBack, last_offset
from stream.metrics import WorkerMetrics
from stream.partition.partition import Partition, Pipeline
from stream.partition.pipeline import Surroundings, pipeline
from stream.partition.reencode import Reencoder
from stream.records.embedding_record import EmbeddingWriter
from stream.records.new_items import LearnedItems
from stream.settings import App, Settings, Topics
from stream.testing.bundle import FIRST_DAY, N_INTERESTS, tiny_bundle

USERS = ["ann", "bob", "cid", "dan", "eve"]
MODELS = [tiny_bundle(model_seed=seed) for seed in range(3)]
ENCODERS = [IncrementalEncoder(bundle, "cpu") for bundle in MODELS]
SOURCE = Source("events", "source", 0)

steps = st.one_of(
    st.tuples(st.just("apply"), st.lists(st.sampled_from(USERS), min_size=1, max_size=4)),
    st.tuples(st.just("encode"), st.just(0)),
    st.tuples(st.just("walk"), st.booleans()),
    st.tuples(st.just("walk"), st.booleans()),
    st.tuples(st.just("note"), st.just(0)),
    st.tuples(st.just("dies"), st.sampled_from(["before", "after"])),
    st.tuples(st.just("stands by"), st.integers(0, 1)),
    st.tuples(st.just("starts"), st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from(["one", "two"]))),
    st.tuples(st.just("is made anew"), st.sampled_from(["one", "two"])),
    st.tuples(st.just("looks"), st.just(0)),
    st.tuples(st.just("loses its end"), st.integers(1, 6)),
)


# A user's embedding: of which model, and up to which ``seq``.
Published = tuple[bytes, tuple[str, int]]


class Died(Exception):
    """The process was killed within a transaction."""


@dataclass
class PretendedKafka:
    """What brokers hold: the changelog, and of each embeddings topic its id and its records, None where aborted."""

    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=lambda: {"one": "id-0", "two": "id-1"})
    logs: dict[str, list[Published | None]] = field(default_factory=lambda: {"id-0": [], "id-1": []})
    dies: str = ""
    has_lost: bool = False

    def make_anew(self, topic: str) -> None:
        self.ids[topic] = f"id-{len(self.logs)}"
        self.logs[self.ids[topic]] = []

    def lose_end(self, n: int) -> None:
        """As a leader without the newest records does, in every topic."""
        for log in self.logs.values():
            self.has_lost = self.has_lost or bool(log)
            del log[-n:]

    def published(self, topic_id: str) -> dict[bytes, tuple[str, int]]:
        """The newest of every user."""
        return dict(each for each in self.logs[topic_id] if each is not None)

    async def transact(self, outputs: dict[str, Any], written: dict[str, int]) -> dict[str, int]:
        await asyncio.sleep(0)
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise Died
        last = {}
        for topic, records in outputs.items():
            if topic in self.ids:
                last[topic] = self._publish(topic, records, written.get(topic, -1))
                continue
            if topic == "app-bags-changelog":
                self.changelog += [(each.key, each.value) for each in records]
            last[topic] = len(self.changelog) - 1
        written |= last
        if dies == "after":
            raise Died
        return last

    def _publish(self, topic: str, records: Sequence[Any], written: int) -> int:
        log = self.logs[self.ids[topic]]
        base, headers = len(log), [dict(each.headers) for each in records]
        log += [None] * len(records)
        last = last_offset(topic, base, len(records), written)
        said = [(each["model_id"].decode(), int(each["seq"])) for each in headers]
        log[base:] = zip([each.key for each in records], said, strict=True)
        return last

    @property
    def record(self) -> PartitionRecord | None:
        values = [value for key, value in self.changelog if key == RECORD_KEY and value is not None]
        return decode_record(values[-1]) if values else None

    @property
    def newest_seq(self) -> dict[bytes, int]:
        newest: dict[bytes, int] = {}
        for key, value in self.changelog:
            if key != RECORD_KEY and value is not None:
                seq = int(decode_header([value])[0][0])
                newest[user_of(key)] = max(newest.get(user_of(key), 0), seq)
        return newest


class Producer:
    """The seam where transactions begin."""

    def __init__(self, kafka: PretendedKafka, name: str) -> None:
        self.partition, self.id, self._kafka = 0, name, kafka
        self._written: dict[str, int] = {}

    def begin_topic(self, topic: str, after: int = -1) -> None:
        self._written[topic] = after

    async def transact(self, _cause: str, outputs: Any, _timestamp_ms: int, _source: Any = None) -> dict[str, int]:
        return await self._kafka.transact(outputs, self._written)


@dataclass
class Owned:
    """What the encode cycles ask of an ownership."""

    shared: Pipeline
    partitions: dict[int, Partition]
    recovered: bool = False


class Worker:
    """One process after the other, on one of two disks."""

    def __init__(self, folder: Path, kafka: PretendedKafka) -> None:
        self._folder, self._kafka = folder, kafka
        self._resources = StoreResources(StoreOptions())
        self.model, self.disk, self.topic = 0, 0, "one"
        self.n_events = 0

    @property
    def output(self) -> Output:
        return Output(MODELS[self.model].model_id, self.topic, self._kafka.ids[self.topic])

    def recovered(self, disk: int) -> BagStore:
        store, record = BagStore(self._folder / f"disk-{disk}", self._resources), self._kafka.record
        store.published = 0 if record is None else record.published
        rest = self._kafka.changelog[store.changelog_offset + 1 :]
        if rest:
            store.replay([(key, value, 1) for key, value in rest], len(self._kafka.changelog) - 1)
        return store

    async def start(self) -> None:
        bundle, store = MODELS[self.model], self.recovered(self.disk)
        topic = self.topic

        async def source() -> Source:
            return SOURCE

        async def output() -> Output:
            return self.output

        async def first_offsets() -> dict[int, int]:
            return {}

        given = Settings(app=App(id="app"), topics=Topics(embeddings=topic, partitions=1))
        around = Surroundings(source, output, first_offsets, 1 << 20, lambda: (FIRST_DAY + 9) * MS_PER_DAY)
        shared = pipeline(given, bundle, LearnedItems(bundle.codebook), WorkerMetrics(), around)
        producers: Any = Producer(self._kafka, "rows"), Producer(self._kafka, "embeddings")
        self.partition = Partition(store, producers[0], producers[1], shared)
        ownership = Owned(shared, {0: self.partition})
        writer = EmbeddingWriter(bundle.model_id, bundle.space_id, "float32")
        self._reencoder = Reencoder(ownership, ENCODERS[self.model], writer, 0.1, batch_users=1)
        await self.partition.activate(SOURCE, self.output, 0, lambda: True)
        ownership.recovered = True

    def end(self) -> None:
        self._reencoder._threads.shutdown()
        self.partition.store.close()

    async def step(self, name: str, argument: Any) -> None:
        partition = self.partition
        if name == "apply":
            await self.apply(argument)
        elif name == "encode":
            await self._reencoder._cycle(partition)
        elif name == "walk":
            # The record is written with it, or only later.
            partition._noted_at_s = -math.inf if argument else math.inf
            await self._reencoder._sweep_until(partition, -math.inf)
        elif name == "note":
            partition._noted_at_s = -math.inf
            await partition.note_published()
        elif name == "stands by" and argument != self.disk:
            self.recovered(argument).close()
        elif name == "starts":
            self.end()
            self.model, self.disk, self.topic = argument
            await self.start()
        elif name == "looks":
            await partition.aim(self.output, lambda: True)

    async def apply(self, users: list[str]) -> None:
        start, records = self.partition.record.next_offset, []
        for i, user in enumerate(users, self.n_events):
            value = {"user_id": user, "item_id": f"item-{i % N_INTERESTS}", "ts": (FIRST_DAY + i % 3) * MS_PER_DAY}
            at = {"offset": start + i - self.n_events, "timestamp": 1}
            records.append(SimpleNamespace(key=user.encode(), value=json.dumps(value).encode(), headers=(), **at))
        self.n_events += len(users)
        await self.partition.apply(records, start + len(users))

    async def settle(self) -> None:
        await self.step("looks", 0)
        while self.partition.publication.walk is not None or len(self.partition.store.marks):
            await self.step("encode", 0)
            await self.step("walk", False)
        await self.step("note", 0)


def check_what_the_record_says(kafka: PretendedKafka) -> None:
    """Whoever is below the watermark and behind the walk has an embedding of its output, newer ones included."""
    record = kafka.record
    if record is None:
        return
    output = record.output if record.walk is None else record.walk.to
    published = kafka.published(output.topic_id)
    if kafka.ids[output.topic] != output.topic_id or kafka.has_lost:
        return
    for user, seq in kafka.newest_seq.items():
        if seq < record.published and (record.walk is None or record.walk.has_passed(user)):
            assert published.get(user) == (output.model_id, seq), f"{user=} {seq=} {record=}"


async def run(history: list[tuple[str, Any]], folder: Path) -> None:
    kafka = PretendedKafka()
    worker = Worker(folder, kafka)
    await worker.start()
    for name, argument in history:
        if name == "dies":
            kafka.dies = argument
        elif name == "is made anew":
            kafka.make_anew(argument)
        elif name == "loses its end":
            kafka.lose_end(argument)
        else:
            await stepped(worker, name, argument)
        check_what_the_record_says(kafka)
    kafka.dies = ""
    # That a topic has lost its end is noticed when more is written.
    for name, argument in [("apply", ["ann"]), ("encode", 0), ("looks", 0)]:
        await stepped(worker, name, argument)
    await worker.settle()
    model_id, there = MODELS[worker.model].model_id, kafka.published(kafka.ids[worker.topic])
    assert there == {user: (model_id, seq) for user, seq in kafka.newest_seq.items()}
    if kafka.record is not None:
        assert kafka.record.ledger.applied == kafka.record.ledger.received
    if kafka.newest_seq:
        assert kafka.record is not None
        assert (kafka.record.walk, kafka.record.output) == (None, worker.output)
    worker.end()


async def stepped(worker: Worker, name: str, argument: Any) -> None:
    """The step, after which a worker that it has ended starts again."""
    try:
        await worker.step(name, argument)
    except (Died, TopicWentBack):
        worker.end()
        await worker.start()


PUBLISHED = [("apply", USERS), ("encode", 0), ("note", 0)]
BACK = ("starts", (0, 0, "one"))
OTHER = ("starts", (1, 0, "one"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=20))
def test_whatever_comes_in_between_everybodys_embedding_is_of_the_model_and_topic_of_the_end(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]]
) -> None:
    asyncio.run(run([*PUBLISHED, *history], tmp_path_factory.mktemp("worker")))


@pytest.mark.parametrize(
    "then",
    [
        [OTHER, ("walk", True), ("walk", True), BACK],
        [OTHER, ("walk", False), ("walk", False), BACK],
        [OTHER, ("walk", True), BACK, ("walk", True), ("walk", True), OTHER],
        [OTHER, ("walk", True), ("dies", "after"), ("walk", False), BACK],
        [OTHER, ("apply", ["ann"]), ("encode", 0), ("dies", "before"), ("note", 0), BACK],
        [OTHER, ("walk", True), ("starts", (1, 1, "one")), ("walk", True)],
    ],
)
def test_a_model_rolled_back_in_the_middle_of_its_walk_publishes_everybody_again(
    tmp_path: Path, then: list[tuple[str, Any]]
) -> None:
    asyncio.run(run([*PUBLISHED, *then], tmp_path))


@pytest.mark.parametrize(
    "then",
    [
        [("loses its end", 3)],
        [("loses its end", 5), BACK],
        [OTHER, ("walk", True), ("loses its end", 2), BACK],
        [("apply", ["bob", "cid"]), ("loses its end", 1), ("encode", 0), ("dies", "before"), ("note", 0)],
        [("loses its end", 3), ("starts", (0, 1, "one")), ("apply", ["eve"]), ("dies", "after"), ("encode", 0)],
    ],
)
def test_an_embeddings_topic_that_lost_its_end_gets_everybody_again(
    tmp_path: Path, then: list[tuple[str, Any]]
) -> None:
    asyncio.run(run([*PUBLISHED, *then], tmp_path))


@pytest.mark.parametrize(
    "then",
    [
        [("is made anew", "one")],
        [("is made anew", "one"), BACK],
        [("starts", (0, 0, "two"))],
        [("starts", (0, 0, "two")), ("walk", True), ("walk", True), BACK],
        [OTHER, ("walk", True), ("walk", True), ("is made anew", "one"), ("looks", 0)],
        [OTHER, ("walk", True), ("is made anew", "one"), OTHER],
    ],
)
def test_an_embeddings_topic_that_is_another_gets_everybody(tmp_path: Path, then: list[tuple[str, Any]]) -> None:
    asyncio.run(run([*PUBLISHED, *then], tmp_path))
