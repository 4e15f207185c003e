"""What this worker holds: the stores of its partitions and standbys, and the producers of the partitions it owns.

Producers start when a partition is assigned, before recovery looks at the changelog's end: whoever held it before is
fenced and its open transaction aborted, so that end is final. Only assigned partitions may be opened (I7).
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from aiokafka import TopicPartition

from state.errors import StateError, StoreUnavailable
from state.options import StoreResources
from state.rows import RECORD_KEY
from state.store import BagStore, is_of_another, is_recent, remove_if_behind
from stream.errors import SourceLost
from stream.kafka.leader_epoch import ends_of_epochs
from stream.kafka.source import Source
from stream.kafka.transactions import TransactionalProducer
from stream.kafka.watermark import Newest, last_hidden_keys, newest_records
from stream.partition.erased import continued, read_erased
from stream.partition.partition import Partition, Pipeline
from stream.settings import EMBEDDINGS_SUFFIX, Kafka

logger = logging.getLogger("lurm")

# Of rows, and of embeddings.
Producers = tuple[TransactionalProducer, TransactionalProducer]


class Ownership:
    """The partitions of this worker, through all rebalances.

    ``recovered`` allows work: false from the moment partitions may be lost until the new ones are recovered. ``ready``
    is what is said outside: it stays true through a rebalance that brings this worker nothing new. Until it
    ``was_assigned`` anything, it holds nothing.
    """

    def __init__(
        self,
        folder: Path,
        resources: StoreResources,
        kafka: Kafka,
        shared: Pipeline,
        changelog_id: Callable[[], Awaitable[str]],
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self.recovered = False
        self.ready = False
        self.was_assigned = False
        self.n_replayed = 0
        self.applying: dict[asyncio.Task[None], object] = {}
        self.shared = shared
        self.folder = folder
        self._resources = resources
        self._kafka = kafka
        self._changelog_id = changelog_id
        self._stores: dict[int, BagStore] = {}
        self._allowed: set[int] = set()
        self._assigned_at_s, self._replayed_before = 0.0, 0
        self._assignment: object | None = None
        self._source_id = ""
        # Whoever opens or closes databases: one assignment at a time, since each has a lock of its own.
        self._disk = asyncio.Lock()

    @property
    def stores(self) -> Mapping[int, BagStore]:
        """Every open store, by partition: those we own and those we stand by for."""
        return self._stores

    def store(self, number: int) -> BagStore:
        """The open store of an assigned partition.

        **Raises** `StoreUnavailable` for one that was cut off while it was open: opened again, it is wiped.
        """
        if number not in self._allowed:
            raise RuntimeError(f"partition {number} is not assigned to this worker")
        if number not in self._stores:
            raise RuntimeError(f"the store of partition {number} is not open yet")
        store = self._stores[number]
        # A replay would go on where it stopped, and the changelog may have forgotten tombstones since. The clock is the
        # one that dated it: how far that is behind the brokers' is no time that has passed.
        if not is_recent(store.written_at_s, time.time()):
            raise StoreUnavailable(
                f"the state saw no changelog for days and must begin anew, with the worker: path={store.path}"
            )
        return store

    async def assign(self, active: set[int], standby: set[int]) -> None:
        """Hold exactly these partitions: close the others, and fence the previous owners of new ones.

        A signal to stop may give everything up while this waits for a broker; then it takes nothing.
        """
        self.recovered, self.was_assigned = False, True
        new = active - set(self.partitions)
        self.ready = self.ready and not new
        allowed = self._allowed = active | standby
        self._assigned_at_s, self._replayed_before = time.monotonic(), self.n_replayed
        self.shared.metrics.rebalances.inc()
        logger.info("assigned: active=%s standby=%s", sorted(active), sorted(standby))
        await asyncio.gather(*(self._release(number) for number in set(self.partitions) - active))
        await self._close_stores()
        started = await asyncio.gather(*map(self._fence, new))
        producers = dict(zip(new, started, strict=True))
        changelog_id = await self._changelog_id() if allowed else ""
        for store in self._stores.values():
            self._refuse_other(store, changelog_id)
        await self._end_hanging(producers)
        closed = allowed - set(self._stores)
        await self._open_stores(closed)
        applied = {number: self._stores[number].changelog_offset for number in closed & set(self._stores)}
        newest = await newest_records(self._kafka, self.shared.names.changelog, closed, self.shared.clock, applied)
        await self._continue_stores(closed, changelog_id, newest)
        for number, (rows, embeddings) in producers.items():
            if number in self._allowed:
                self.partitions[number] = Partition(self.store(number), rows, embeddings, self.shared)
            else:
                await asyncio.gather(rows.stop(), embeddings.stop())
        if self._allowed is allowed:
            self._assignment = object()

    async def activate(self) -> None:
        """Every owned partition is recovered, unless a rebalance has overtaken the recovery: then another will end."""
        assignment = self._assignment

        def is_current() -> bool:
            return assignment is not None and self._assignment is assignment

        if is_current():
            source, output = await asyncio.gather(self.shared.source(), self.shared.output())
            # Whoever holds no partition would wait for ever for one of a topic that is gone.
            source.refuse_successor(self._source_id)
            self._source_id = source.topic_id
            await self._learn_erasures(source)
            partitions = list(self.partitions.values()) if is_current() else []
            some_begin = any(source.begins(partition.store.record) for partition in partitions)
            first = await self.shared.first_offsets() if some_begin else {}
            kept = await self._kept(source, partitions)
            await asyncio.gather(
                *(
                    each.activate(source, output, first.get(each.number, 0), is_current, kept.get(each.number))
                    for each in partitions
                )
            )
        if not is_current():
            return
        self.recovered = True
        # Who is told that this worker is ready must not read that rows remain.
        self.shared.metrics.recovery_remaining.set(0)
        self.shared.metrics.recovery_eta_s.set(0)
        # With partitions, `Consumer.perform_seek` says so: reading begins there.
        self.ready = self.ready or not self.partitions
        logger.info(
            "recovered: partitions=%s replayed_rows=%d recovery_s=%.2f",
            sorted(self.partitions),
            self.n_replayed - self._replayed_before,
            time.monotonic() - self._assigned_at_s,
        )

    async def _kept(self, source: Source, partitions: Iterable[Partition]) -> Mapping[int, int | None]:
        """Up to where the topic still has what was applied, where another epoch begins on the same one."""
        epochs = {
            each.number: each.record.leader_epoch
            for each in partitions
            if each.store.record is not None and source.begins(each.record) and source.is_same(each.record)
        }
        return await ends_of_epochs(self._kafka, source.topic, epochs) if epochs else {}

    async def drain(self) -> None:
        """Wait until no batch of events or embeddings is in flight; new ones must already be stopped."""
        self.recovered = False
        self._assignment = None
        for partition in self.partitions.values():
            await partition.idle()

    async def close(self) -> None:
        """Give up everything."""
        self.ready = False
        await self.drain()
        await self.assign(set(), set())

    async def is_overtaken(self) -> bool:
        """Whether a partition's changelog goes on behind what was recovered of it: somebody else owns it by now.

        So it is for a worker that stood still for longer than its session, and has not heard from its group yet.
        """
        held = dict(self.partitions)
        newest = await newest_records(self._kafka, self.shared.names.changelog, held, self.shared.clock)
        return any(each.record.next_offset > held[number].record.next_offset for number, each in newest.items())

    async def remove_old(self, now_s: float) -> None:
        """Delete what stands here of partitions that went elsewhere, once its next use would wipe it anyway.

        Until then it saves a partition that comes back from replaying everything; but an erased user stays in it.
        """
        names = [path.name.removeprefix("partition-") for path in self.folder.glob("partition-*")]
        for number in sorted(int(name) for name in names if name.isdecimal()):
            path = self.folder / f"partition-{number}"
            async with self._disk:
                if number in self._allowed:
                    continue
                try:
                    if await asyncio.to_thread(remove_if_behind, path, self._resources, now_s):
                        logger.info("removed a partition that went elsewhere long ago: path=%s", path)
                except (OSError, StateError) as error:
                    logger.warning("an old partition is left where it is: %s", error)

    def memory(self) -> Mapping[str, int]:
        """Bytes of RocksDB's block cache and memtables, over all partitions."""
        resources = self._resources
        return {"cache": resources.cache.get_usage(), "memtables": resources.memtables.get_usage()}

    def dead_producers(self) -> Iterable[int]:
        """Partitions whose producer can never send again."""
        return [
            number
            for number, partition in list(self.partitions.items())
            if any(producer.dead for producer in partition.producers)
        ]

    async def _fence(self, number: int) -> Producers:
        app_id = self.shared.names.group
        rows = TransactionalProducer(self._kafka, f"{app_id}-{number}", number, self.shared.clock)
        embeddings = TransactionalProducer(
            self._kafka, f"{app_id}{EMBEDDINGS_SUFFIX}-{number}", number, self.shared.clock
        )
        await asyncio.gather(rows.start(), embeddings.start())
        return rows, embeddings

    async def _end_hanging(self, producers: Mapping[int, Producers]) -> None:
        """Fencing has ended the transactions of previous owners; end what Kafka forgot to end.

        A transaction of rows that has its partition record was whole, and its owner may hold it in a store since the
        broker called it committed: it is committed. Of any other nobody was told anything: it is aborted. Embeddings
        and erasures of them hold one by one.
        """
        names = self.shared.names
        topics = (names.changelog, names.dead_letters, names.control, names.erasures, names.embeddings)
        wanted = [TopicPartition(topic, number) for topic in topics for number in producers]
        hidden = await last_hidden_keys(self._kafka, wanted) if wanted else {}
        for number, (rows, embeddings) in producers.items():
            found = [topic for topic in topics if TopicPartition(topic, number) in hidden]
            if not found:
                continue
            is_whole = hidden.get(TopicPartition(names.changelog, number), RECORD_KEY) == RECORD_KEY
            logger.warning(
                "Kafka did not end a transaction: partition=%d topics=%s, %s",
                number, ",".join(found), "committing it" if is_whole else "aborting it",
            )  # fmt: skip
            if found != [names.embeddings]:
                await rows.end_hanging([topic for topic in found if topic != names.embeddings], commit=is_whole)
            if names.embeddings in found:
                await embeddings.end_hanging([names.embeddings], commit=True)

    async def _learn_erasures(self, source: Source) -> None:
        """Know, before its first event is counted, whose events each new partition skips."""
        names = self.shared.names
        new = {
            number: (continued(source, partition.store.record, number), partition.record.next_offset)
            for number, partition in self.partitions.items()
            if partition.erased.source != source.name
        }
        if new:
            n_bad = await read_erased(self._kafka, (names.events, names.erasures), new)
            self.shared.metrics.refused_control.inc(n_bad)
        for number, (erased, _) in new.items():
            if number in self.partitions:
                self.partitions[number].erased = erased

    async def _open_stores(self, numbers: Iterable[int]) -> None:
        """Open these, unless they are given up meanwhile.

        One after the other beside the event loop, which has its turn between two: rocksdict lets no other thread work
        while it opens a database, but a store then reads its marks, which may take seconds.
        """
        async with self._disk:
            for number in numbers:
                # Whoever gives it up closes what is open once this is done.
                if number in self._allowed:
                    path = self.folder / f"partition-{number}"
                    opened = await asyncio.to_thread(BagStore.open_fresh, path, self._resources, time.time())
                    self._stores[number] = opened

    async def _continue_stores(self, numbers: Iterable[int], changelog_id: str, newest: Mapping[int, Newest]) -> None:
        """Go on with what these hold, or begin anew, unless they are given up meanwhile."""
        async with self._disk:
            for number in self._allowed & set(self._stores) & set(numbers):
                store = self._stores.pop(number)
                args = (store, changelog_id, newest.get(number))
                self._stores[number] = await asyncio.to_thread(self._continued, *args)

    async def _close_stores(self) -> None:
        """Close what is no longer assigned."""
        async with self._disk:
            for number in set(self._stores) - self._allowed:
                await asyncio.to_thread(self._stores.pop(number).close)

    def _continued(self, store: BagStore, changelog_id: str, newest: Newest | None) -> BagStore:
        """A store of a partition whose changelog ends like this; what it says is published needs no mark.

        One that contradicts it is wiped, but only once somebody has begun that changelog: until then it may be all
        there is.
        """
        if newest is None:
            self._refuse_other(store, changelog_id)
        elif why := _contradiction(store, changelog_id, newest):
            logger.warning("the state %s, and begins anew: path=%s", why, store.path)
            store = self._begun_anew(store)
        store.changelog_id = changelog_id or store.changelog_id
        if newest is not None:
            store.published = newest.record.published
        return store

    def _begun_anew(self, store: BagStore) -> BagStore:
        store.close()
        shutil.rmtree(store.path)
        return BagStore(store.path, self._resources)

    def _refuse_other(self, store: BagStore, changelog_id: str) -> None:
        if is_of_another(store, changelog_id):
            raise SourceLost(
                "the changelog is not the one that was applied; was it recreated? "
                f"topic={self.shared.names.changelog} id={changelog_id} applied={store.changelog_id} "
                f"path={store.path}; remove LURM_STATE__DIR and reset the group's offsets to build the state again"
            )

    async def _release(self, number: int) -> None:
        partition = self.partitions.pop(number)
        self.shared.metrics.forget(number)
        for producer in partition.producers:
            # The partition is somebody else's by now: a producer that cannot say goodbye is fenced anyway.
            with suppress(Exception):
                await producer.stop()


def _contradiction(store: BagStore, changelog_id: str, newest: Newest) -> str:
    """Why a store cannot be continued with this changelog; empty when it can.

    A changelog without an id, or that has lost its end and was written on, is known by what stands where the store is.
    """
    if is_of_another(store, changelog_id):
        return "belongs to another changelog"
    if newest.offset < store.changelog_offset < newest.end and store.record != newest.record:
        return "holds what Kafka has aborted"
    if newest.applied is not None and store.get([newest.applied[0]]) != [newest.applied[1]]:
        return "holds what its changelog does not"
    return ""
