"""One owned partition: its batches in order, each one Kafka transaction and then one WriteBatch.

The order of effects is the whole point: (1) rows, partition record, dead letters and source offset in one transaction
of the only producer that may write them; (2) the same rows, record, changelog offset and dirty marks in RocksDB. A
crash before (1) ends leaves nothing, a crash before (2) is repaired by replaying the changelog (I1, I2, I3).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import MappingProxyType

import msgspec
import numpy as np

from lurm_model.interests.attribute_sets import SETS_AT_ONCE
from state.periods import Scale
from state.record import Ledger, PartitionRecord, encode_record
from state.rollup import roll_up
from state.rows import RECORD_KEY, Write, seq_of
from state.store import BagStore, Changes
from state.walk import Output
from stream.failpoints import passing
from stream.kafka.clock import Clock
from stream.kafka.source import Source
from stream.kafka.transactions import SourceOffset, TopicWentBack, Writer
from stream.metrics import WorkerMetrics
from stream.partition.erased import ErasedUsers
from stream.partition.erasing import Asked, ControlPlace, Deed, Doomed, checked, doom, erased_end
from stream.partition.ingest import interests_of, update_rows
from stream.partition.placement import Placement
from stream.partition.publication import Ended, Publication
from stream.records.arrival import UNKNOWN, Arrival
from stream.records.dead_letters import Place, dead_letters
from stream.records.events import MS_OF_2000, EventBatch, EventDecoder, SourceRecord
from stream.records.outgoing import Outgoing
from stream.records.record_times import waiting

logger = logging.getLogger("lurm")

# While no events come, the published watermark is noted in the changelog at most this often.
_NOTE_INTERVAL_S = 5.0
# A roll-up reads this many rows, and those of one more user, so that it delays the batches behind it little.
_ROLL_UP_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Names:
    """The topics and the group a partition writes to."""

    events: str
    changelog: str
    dead_letters: str
    embeddings: str
    control: str
    erasures: str
    group: str


@dataclass(frozen=True)
class Pipeline:
    """What all partitions of a worker share."""

    names: Names
    source: Callable[[], Awaitable[Source]]
    output: Callable[[], Awaitable[Output]]
    first_offsets: Callable[[], Awaitable[Mapping[int, int]]]
    decoder: EventDecoder
    placement: Placement
    scales: tuple[Scale, ...]
    empty_record: PartitionRecord
    dead_letter_bytes_max: int
    metrics: WorkerMetrics
    now_ms: Callable[[], int]
    clock: Clock = field(default_factory=Clock)
    # One for all: more would take turns at the same cores.
    assigning: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "lurm-assign"))


class Partition:
    """A partition we own; `apply`, `erase`, `roll_up` and `publish` may be called concurrently and order themselves."""

    def __init__(self, store: BagStore, changelog: Writer, embeddings: Writer, shared: Pipeline) -> None:
        self.number = changelog.partition
        self.names = shared.names
        self.store = store
        self.producers = (changelog, embeddings)
        self.encoding = asyncio.Lock()
        self.erased = ErasedUsers("")
        self.newest_applied_ms = 0
        self.began_epoch = False
        self.publication = Publication(embeddings, shared.names.embeddings, shared.metrics)
        self.control = ControlPlace()
        self._shared = shared
        self._empty = shared.empty_record
        self._changelog, self._embeddings = changelog, embeddings
        self._order = asyncio.Lock()
        self._noted_at_s = perf_counter()
        # Until there is a commit, what counts is since when we could have made one.
        self._last_commit = shared.metrics.last_commit.labels(str(self.number))
        self._last_commit.set(shared.now_ms() / 1000)

    async def activate(
        self,
        source: Source,
        output: Output,
        first_offset: int,
        is_current: Callable[[], bool],
        kept: int | None = None,
    ) -> None:
        """Recovery is complete: check what was recovered and which topic is read from now on.

        Who begins with it does so at its ``first_offset``; one that has lost its end is read on from what it ``kept``.
        Where embeddings go to another ``output``, a walk begins.
        """
        async with self._order:
            if not is_current():
                return
            self.store.marks.sort()
            self._changelog.begin_topic(self.names.changelog, self.store.changelog_offset)
            self.publication.begin(self.record)
            self.record.refuse_other(self._empty.interest_space_id, self._empty.scales)
            for user, end in self.record.still_erasing().items():
                self.erased.erase(user.encode(), end, self.record.next_offset)
            after = source.continued(self.record, self.number, kept)
            if source.begins(self.store.record) and not source.is_same(self.record):
                after = msgspec.structs.replace(after, next_offset=first_offset)
            begins_walk = self.publication.aim(self.store.record, output)
            if self.store.record is None:
                self._empty = after
                return
            if after != self.record or begins_walk:
                self.began_epoch = after.epoch > self.record.epoch
                await self._begin(after)

    async def aim(self, output: Output, is_owned: Callable[[], bool], ended: Ended | None = None) -> None:
        """Embeddings go here from now on: where that is another output, begin a walk before the next is published.

        So where it ``ended`` before what it had taken.
        """
        async with self.encoding, self._order:
            publication = self.publication
            if is_owned() and (
                publication.aim(self.store.record, output) or (ended is not None and publication.loses(ended))
            ):
                await self._commit_and_apply("note", [])

    async def _begin(self, begun: PartitionRecord) -> None:
        """Write down what is read and where embeddings go, before an event is counted or an embedding published."""
        names = self._shared.names
        after = self._next_record(
            epoch=begun.epoch,
            source_id=begun.source_id,
            next_offset=begun.next_offset,
            leader_epoch=begun.leader_epoch,
        )
        source = SourceOffset(names.events, self.number, after.next_offset, names.group)
        offset = await self._commit("begin", [], after, source=source)
        self.store.apply(Changes([], after, offset))
        passing("begin.applied")

    @property
    def record(self) -> PartitionRecord:
        """What holds now."""
        return self.store.record or self._empty

    async def apply(
        self,
        records: Sequence[SourceRecord],
        next_offset: int,
        is_current: Callable[[], bool] = lambda: True,
        arrival: Arrival = UNKNOWN,
    ) -> None:
        """Apply one fetched batch that ends before ``next_offset``, unless it is overtaken by when its turn comes."""
        async with self._order:
            if is_current():
                await self._apply(records, next_offset, is_current, arrival)

    async def _apply(
        self,
        records: Sequence[SourceRecord],
        next_offset: int,
        is_current: Callable[[], bool],
        arrival: Arrival,
    ) -> None:
        shared, record = self._shared, self.record
        # The contiguity check makes this empty; were it ever wrong, nothing would be counted twice.
        fresh = [source for source in records if source.offset >= record.next_offset]
        counted = self.erased.still_counted(fresh)
        with shared.metrics.timed("decode"):
            parsed = shared.decoder.parse(counted, shared.now_ms())
        if len(parsed.new.sets) > SETS_AT_ONCE:
            # Each half with a transaction of its own, so that the watchdog sees that the source moves.
            half, arrival = len(records) // 2, arrival.half()
            await self._apply(records[:half], records[half].offset, is_current, arrival)
            if is_current():
                await self._apply(records[half:], next_offset, is_current, arrival)
            return
        interests = await interests_of(parsed.new, shared.decoder.sets, shared.assigning, shared.metrics, is_current)
        if interests is None:
            return
        with shared.metrics.timed("decode"):
            batch = shared.decoder.finish(parsed, interests)
        waited = waiting(batch.record_ms, arrival, shared.now_ms())
        passing("batch.decoded")
        with shared.metrics.timed("merge"):
            update = update_rows(replace(batch, record_ms=waited.since_ms), record.epoch, self.store)
        passing("batch.merged")
        ledger = Ledger(len(records), len(batch), len(records) - len(counted), len(batch.rejected))
        self.erased.forget_passed(max(next_offset, record.next_offset))
        after = self._next_record(
            next_offset=max(next_offset, record.next_offset),
            ledger=record.ledger + ledger,
            leader_epoch=arrival.leader_epoch,
        )
        rows = list(zip(update.keys, update.values, strict=True))
        source = SourceOffset(shared.names.events, self.number, after.next_offset, shared.names.group)
        place = Place(shared.names.events, self.number)
        letters = dead_letters(batch.rejected, place, shared.dead_letter_bytes_max, arrival.to_send_on)
        rejected = {shared.names.dead_letters: letters}
        offset = await self._commit("batch", rows, after, rejected, source)
        with shared.metrics.timed("store"):
            marks = self.store.marks.add(update.users, update.marks)
            self.store.apply(Changes(rows, after, offset, marks))
        passing("batch.applied")
        self._count(ledger, batch)
        shared.placement.look(batch.users, self.number, shared.now_ms())
        for kind, n in waited.kinds.items():
            shared.metrics.record_times.labels(kind.value).inc(n)
        shared.metrics.before_2000.inc(int(np.count_nonzero(batch.ts_ms < MS_OF_2000)))
        self.newest_applied_ms = max(int(waited.since_ms[-1:].sum()), self.newest_applied_ms)

    async def roll_up(self, closed: Mapping[bytes, int]) -> None:
        """Move users' days before their window into their coarse rows, as many users at once as rows allow.

        Only days up to the user's ``closed`` one, which the cache that is written next holds. The one that is stored
        may lack some: it goes in the same WriteBatch, or a late event's new row would pass for the whole day (C5).
        """
        users = list(closed)
        while users:
            async with self._order:
                found, stored = self.store.read_users(users, _ROLL_UP_ROWS)
                last = np.array([closed[user] for user in found], np.int64)
                writes = roll_up(found, stored, self._shared.scales, last)
                if writes:
                    await self._commit_and_apply("roll_up", writes, uncached=found)
                    self._shared.metrics.rolled_up.inc(sum(value is None for _, value in writes))
            users = users[users.index(found[-1]) + 1 :] if found else []

    async def erase(self, asked: Sequence[Asked], is_owned: Callable[[], bool]) -> bool:
        """Forget users; False when the partition was given up before the turn of all came.

        No encode is in flight meanwhile, so none can publish afterwards. The embeddings' tombstones go first: a crash
        before the rows' own repeats them, one after them has nothing left to do.
        """
        while asked:
            async with self.encoding, self._order:
                if not is_owned():
                    return False
                passing("erase.started")
                asked = asked[await self._erase(asked) :]
        return True

    async def _erase(self, asked: Sequence[Asked]) -> int:
        """Forget the first of these users together; how many."""
        shared, record, names = self._shared, self.record, self._shared.names
        doomed = doom(self.store, asked)
        tombstones = await self._erase_embeddings(doomed)
        deed = Deed(record, self.store.changelog_offset, tombstones, shared.now_ms())
        ends = [self.erased.erase(each.user, erased_end(each.marker, record), record.next_offset) for each in doomed]
        both = list(zip(doomed, ends, strict=True))
        others = {
            names.control: [deed.answer(each, end) for each, end in both],
            names.erasures: [deed.erasure(each.user, end, self.erased.source, names.group) for each, end in both],
        }
        control_offset = asked[len(doomed) - 1].next_offset
        control = SourceOffset(names.control, self.number, control_offset, names.group)
        rows = [(key, None) for each in doomed for key in each.rows]
        after = self._next_record(control_offset=control_offset, control_id=self.control.topic_id)
        offset = await self._commit("erase", rows, after, others, control)
        self.store.apply(Changes(rows, after, offset, erased=[each.user for each in doomed]))
        passing("erase.applied")
        # The lock is still held, so nothing can have come.
        said = {names.control: checked(self.store, doomed)}
        await self._changelog.transact("check", said, shared.now_ms())
        shared.metrics.erasures.inc(len(doomed))
        return len(doomed)

    async def _erase_embeddings(self, doomed: Sequence[Doomed]) -> dict[bytes, int]:
        """Where each user's tombstone stands, of those whose embedding may be shown."""
        users = list({each.user: None for each in doomed if each.is_shown})
        if not users:
            return {}
        last = await self._show("erase_embedding", [Outgoing(user, None) for user in users], nullcontext())
        return dict(zip(users, range(last - len(users) + 1, last + 1), strict=True))

    async def publish(self, embeddings: Sequence[Outgoing]) -> None:
        """Write embeddings; when this returns, the broker has acknowledged them."""
        if embeddings:
            start = perf_counter()
            await self._show("encode", embeddings, self._order)
            self._shared.metrics.publish.observe(perf_counter() - start)

    async def _show(self, cause: str, records: Sequence[Outgoing], turn: AbstractAsyncContextManager[None]) -> int:
        """Write to the embeddings topic; where the last of these stands.

        A topic that has gone back has lost what was published: before the process ends, a walk over everybody begins.
        """
        try:
            return await self.publication.write(cause, records, self._shared.now_ms())
        except TopicWentBack:
            async with turn:
                self.publication.begin_again()
                await self._commit_and_apply("note", [])
            raise

    async def idle(self) -> None:
        """Wait until no transaction of this partition is in flight."""
        async with self.encoding, self._order:
            return

    async def note_published(self) -> None:
        """While no batch carries it, write down that embeddings were published, so a fail-over repeats few."""
        since_s = perf_counter() - self._noted_at_s
        due = since_s > _NOTE_INTERVAL_S and self._next_record() != self.record
        if due and not self._order.locked():
            async with self._order:
                await self._commit_and_apply("note", [])

    async def keep_alive(self, idle_s: float, is_owned: Callable[[], bool]) -> None:
        """Use the producers that were idle for so long, unless the partition was given up before their turn came."""
        if self._changelog.idle_s >= idle_s:
            async with self._order:
                if is_owned():
                    await self._commit_and_apply("note", [])
        if self._embeddings.idle_s >= idle_s:
            async with self.encoding:
                if is_owned():
                    await self._embeddings.end_hanging([self._shared.names.embeddings], commit=True)

    def _next_record(self, **changes: object) -> PartitionRecord:
        record, oldest = self.record, self.store.marks.oldest
        published = seq_of(record.epoch, record.next_offset) if oldest is None else oldest.first_seq
        changes |= {"published": published, "embeddings_end": self.publication.shown_end, **self.erased.noted()}
        return self.publication.noted(msgspec.structs.replace(record, **changes).without_passed())

    async def _commit_and_apply(self, cause: str, rows: Sequence[Write], uncached: Sequence[bytes] = ()) -> None:
        after = self._next_record()
        offset = await self._commit(cause, rows, after)
        self.store.apply(Changes(rows, after, offset, uncached=uncached))
        passing(f"{cause}.applied")

    async def _commit(
        self,
        cause: str,
        rows: Sequence[Write],
        record: PartitionRecord,
        others: Mapping[str, Sequence[Outgoing]] = MappingProxyType({}),
        source: SourceOffset | None = None,
    ) -> int:
        names, start = self._shared.names, perf_counter()
        written = [*rows, (RECORD_KEY, encode_record(record))]
        outputs = {names.changelog: [Outgoing(key, value) for key, value in written], **others}
        last = await self._changelog.transact(cause, outputs, self._shared.now_ms(), source)
        self._noted_at_s = perf_counter()
        self._shared.metrics.changelog.observe(self._noted_at_s - start)
        self._last_commit.set(self._shared.now_ms() / 1000)
        return last[names.changelog]

    def _count(self, ledger: Ledger, batch: EventBatch) -> None:
        metrics = self._shared.metrics
        metrics.count(ledger)
        metrics.batch_events.observe(ledger.received)
        metrics.unknown_items.inc(batch.n_unknown_items)
        for rejection in batch.rejected:
            metrics.rejections.labels(rejection.reason.value).inc()
