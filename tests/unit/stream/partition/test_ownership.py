"""What a worker may do while rebalances come and go; no partition is owned here, so no broker is needed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lurm_model.interests.codebook import Codebook
from state.errors import StoreUnavailable
from state.options import StoreOptions, StoreResources
from state.periods import parse_scales
from state.record import PartitionRecord, encode_record
from state.rows import RECORD_KEY
from state.store import BEHIND_S_MAX, BagStore
from state.walk import Output, Walk
from stream.errors import SourceLost
from stream.kafka.clock import Clock
from stream.kafka.source import Source
from stream.kafka.transactions import TransactionalProducer
from stream.metrics import WorkerMetrics
from stream.partition.ownership import Ownership
from stream.partition.partition import Names, Partition, Pipeline
from stream.partition.placement import Placement
from stream.records.events import EventDecoder, Limits
from stream.settings import Kafka


def ownership(folder: Path, source: Callable[[], Awaitable[Source]]) -> Ownership:
    vectors = np.eye(2, dtype=np.float32)
    codebook = Codebook({}, vectors, np.ones(3, np.float32), {}, vectors)
    metrics = WorkerMetrics()
    shared = Pipeline(
        names=Names(*("events", "changelog", "dead-letters", "embeddings", "control", "erasures", "app")),
        source=source,
        output=output,
        first_offsets=first_offsets,
        decoder=EventDecoder(codebook, {}, Limits(1000, 0, 0)),
        placement=Placement("events", 1, "murmur2", metrics),
        scales=parse_scales("day"),
        empty_record=PartitionRecord("space", "day"),
        dead_letter_bytes_max=1 << 20,
        metrics=metrics,
        now_ms=lambda: 0,
    )
    return Ownership(folder, StoreResources(StoreOptions()), Kafka(brokers="nobody:1"), shared, changelog_id)


async def changelog_id() -> str:
    return "changelog-id"


async def output() -> Output:
    return Output("model", "embeddings", "e")


async def first_offsets() -> dict[int, int]:
    return {}


def test_an_assignment_is_ready_once_it_is_recovered(tmp_path: Path) -> None:
    async def source() -> Source:
        return Source("events", "a", 0)

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        await held.activate()
        assert not held.recovered, "nothing was assigned"
        await held.assign(set(), set())
        await held.activate()
        assert held.recovered
        await held.drain()
        await held.activate()
        assert not held.recovered, "a recovery that ends while partitions are given up"

    asyncio.run(scenario())


def test_partitions_that_went_elsewhere_are_removed_once_they_are_six_days_behind(tmp_path: Path) -> None:
    async def source() -> Source:
        return Source("events", "a", 0)

    resources, now_s = StoreResources(StoreOptions()), 1_700_000_000.0
    age_s = {"old": BEHIND_S_MAX, "young": BEHIND_S_MAX - 1, "held": BEHIND_S_MAX, "locked": BEHIND_S_MAX}
    paths = {name: tmp_path / f"partition-{number}" for number, name in enumerate(age_s)}
    others = [tmp_path / "faust", tmp_path / "partition-4"]
    for path in others:
        path.mkdir()
    for name, path in paths.items():
        store = BagStore(path, resources)
        store.replay(
            [(RECORD_KEY, encode_record(PartitionRecord("space", "day")), int((now_s - age_s[name]) * 1000))], 7
        )
        store.close()
    locked = BagStore(paths["locked"], resources)

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        await held.assign(set(), set())
        held._allowed = {2}
        await held.remove_old(now_s)

    asyncio.run(scenario())
    locked.close()
    assert {name for name, path in paths.items() if path.exists()} == {"young", "held", "locked"}
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("reassigned", [False, True])
def test_a_rebalance_that_overtakes_the_end_of_a_recovery_wins(tmp_path: Path, *, reassigned: bool) -> None:
    overtake = True

    async def source() -> Source:
        if overtake:
            await held.drain()
        if overtake and reassigned:
            await held.assign(set(), set())
        return Source("events", "a", 0)

    held = ownership(tmp_path, source)

    async def scenario() -> None:
        nonlocal overtake
        await held.assign(set(), set())
        await held.activate()
        assert not held.recovered
        overtake = False
        await held.assign(set(), set())
        await held.activate()
        assert held.recovered

    asyncio.run(scenario())


def test_a_store_that_was_cut_off_for_longer_than_tombstones_are_kept_is_not_read_on(tmp_path: Path) -> None:
    """As a standby without a network: its disk, which nobody opens meanwhile, is as old as one that was away."""

    async def source() -> Source:
        raise AssertionError

    held = ownership(tmp_path, source)
    held._allowed = {0}
    store = held._stores[0] = BagStore.open_fresh(tmp_path / "partition-0", StoreResources(StoreOptions()), time.time())
    store.replay([], 7)
    store.written_at_s -= BEHIND_S_MAX - 60
    assert held.store(0) is store
    store.replay([], 8)
    store.written_at_s -= BEHIND_S_MAX + 60
    with pytest.raises(StoreUnavailable, match="saw no changelog for days"):
        held.store(0)
    store.close()


def test_a_store_is_used_on_a_machine_whose_clock_is_weeks_behind_the_brokers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is told the brokers' time while stores are opened; that is not how long they saw no changelog."""
    brokers_s = time.time()
    monkeypatch.setattr(time, "time", lambda: brokers_s - 40 * 86_400)

    async def source() -> Source:
        raise AssertionError

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        held.shared = replace(held.shared, clock=Clock(lambda: int(time.time() * 1000)))
        held._allowed = {0}
        await held._open_stores({0})
        held.shared.clock.broker_wrote(int(brokers_s * 1000))
        await held._continue_stores({0}, "changelog-id", {})
        held.store(0).close()

    asyncio.run(scenario())


def test_many_stores_are_opened_and_closed_beside_the_event_loop(tmp_path: Path) -> None:
    n_stores, seen = 60, [0]

    async def source() -> Source:
        raise AssertionError

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        held._allowed = set(range(n_stores))

        async def turn() -> None:
            while True:
                seen.append(len(held.stores))
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        await held._open_stores(held._allowed)
        assert set(held.stores) == held._allowed
        await held.assign(set(), set())
        turning.cancel()
        seen.append(len(held.stores))

    asyncio.run(scenario())
    assert max(abs(after - before) for before, after in pairwise(seen)) < 5, "whoever else has work to do waits"


def test_a_stop_while_stores_are_opened_leaves_none_open(tmp_path: Path) -> None:
    async def source() -> Source:
        raise AssertionError

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        held._allowed = set(range(20))
        opening = asyncio.create_task(held._open_stores(held._allowed))
        await asyncio.sleep(0.1)
        await held.assign(set(), set())
        await opening
        assert not held.stores

    asyncio.run(scenario())
    for path in tmp_path.glob("partition-*"):
        BagStore(path, StoreResources(StoreOptions())).close()


def test_whoever_holds_no_partition_notices_that_the_topic_was_recreated(tmp_path: Path) -> None:
    ids = iter("ab")

    async def source() -> Source:
        return Source("events", next(ids), 0)

    async def scenario() -> None:
        held = ownership(tmp_path, source)
        await held.assign(set(), set())
        await held.activate()
        await held.assign(set(), set())
        with pytest.raises(SourceLost, match="was it recreated"):
            await held.activate()

    asyncio.run(scenario())


def test_a_walk_over_everybody_goes_on_through_a_rebalance_that_leaves_the_partition_here(tmp_path: Path) -> None:
    there = Output("model", "embeddings", "e")
    record = PartitionRecord("space", "day", 7, source_id="a", model_id="another", walk=Walk(there, b"al"))

    async def scenario() -> None:
        async with partition_at(tmp_path) as partition:
            partition.store.replay([(RECORD_KEY, encode_record(record), 1)], 7)
            await partition.activate(Source("events", "a", 0), there, 0, lambda: True)
            assert partition.publication.walk == record.walk, "it goes on where another owner has left it"
            partition.publication.walk = Walk(there, b"ann")
            await partition.activate(Source("events", "a", 0), there, 0, lambda: True)
            assert partition.publication.walk == Walk(there, b"ann")

    asyncio.run(scenario())


def test_a_new_partition_begins_with_the_first_offset_there_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with partition_at(tmp_path) as partition:
            await partition.activate(Source("events", "a", 0), await output(), 75, lambda: True)
            assert (partition.record.next_offset, partition.record.source_id) == (75, "a")

    asyncio.run(scenario())


@asynccontextmanager
async def partition_at(folder: Path) -> AsyncIterator[Partition]:
    """A partition that nothing was read of, and whose producers know no broker."""

    async def source() -> Source:
        raise AssertionError

    store = BagStore(folder / "partition-0", StoreResources(StoreOptions()))
    rows, embeddings = (TransactionalProducer(Kafka(brokers="nobody:1"), name, 0) for name in ("rows", "embeddings"))
    with closing(store):
        yield Partition(store, rows, embeddings, ownership(folder, source).shared)
        await asyncio.gather(rows.stop(), embeddings.stop())
