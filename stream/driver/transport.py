"""Faust transport driver that delivers one message per fetched batch, for the source and changelog topics.

Faust's own acknowledgements and commits play no part for them: source offsets travel in the transactions. What is
kept here: batches of a partition are contiguous and of the present generation (I5), no source batch is delivered
while the app rebalances (I6), and nothing is in flight when partitions are given up (I7).
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.errors import ConsumerStoppedError, InconsistentGroupProtocolError, KafkaError
from aiokafka.protocol.group import LeaveGroupRequest
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from stream.driver.backlog import bytes_by_topic, bytes_of, waiting
from stream.driver.fetched import EndsSeen, Fetched, states
from stream.errors import GroupMixed, SourceLost
from stream.fatal import die
from stream.kafka.connection import SHORT_WAIT_MS, check_fetching
from stream.kafka.fetcher import Taken, broker_ms
from stream.kafka.leader_epoch import end_of_epoch
from stream.kafka.source import Position, n_lost, n_replaced
from stream.records.arrival import UNKNOWN_EPOCH, Arrival

# Batches of a source partition that are fetched and not applied; what comes meanwhile is one larger batch. Faust would
# count them over all partitions, and then ask for none for a whole second.
_BATCHES_AHEAD = 4
# How soon a partition that was full is looked at again.
_FULL_S = 0.005
_WATCH_S = 0.5
# How long ending the attempt to join may take, and then the broker's answer to who leaves.
_LEAVE_S = 1.0
_RETRY_S = 0.1
# Up to where a partition was read, and by which leader the last of it was written: nothing.
_NOTHING_READ = (-1, UNKNOWN_EPOCH)
# Faust gives a rebalance this share of its timeout to finish what is in flight.
_DRAIN_SHARE = 0.6


class BatchMessage(ConsumerMessage):
    """A whole fetched batch; its ``offset`` is the last position it covers, whether or not a record stands there."""

    __slots__ = ("arrival", "n_bytes", "next", "records", "start")


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, reading committed records only and reporting positions."""

    _committing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rebalancing_app = asyncio.Lock()
        self._ends = EndsSeen()
        super().__init__(*args, **kwargs)

    async def on_start(self) -> None:
        """Keep the member id when a commit meets a rebalance, as the Java client does."""
        await super().on_start()
        coordinator = self._consumer._coordinator
        reset = coordinator.reset_generation
        coordinator.reset_generation = lambda: coordinator.request_rejoin() if self._committing else reset()
        self.add_future(self._watch(self._consumer))

    async def on_thread_stop(self) -> None:
        """Leave before all else, since aiokafka would first wait to be a member."""
        try:
            await self.leave_group()
        finally:
            await super().on_thread_stop()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Have the app give them up."""
        async with self._rebalancing_app:
            await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Have the app take them."""
        async with self._rebalancing_app:
            await super().on_partitions_assigned(assigned, generation_id)

    async def leave_group(self) -> None:
        """Be no member any more, nor become one. One with a static id stays until its session ends."""
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if coordinator is None:
            return
        joining, member = coordinator._coordination_task, coordinator.member_id
        deadline_s = time.monotonic() + _LEAVE_S
        while not joining.done() and time.monotonic() < deadline_s:
            # Not while the app is told of a rebalance: it finishes that first.
            async with self._rebalancing_app:
                joining.cancel()
            # It ends by that, unless it was just ending its heartbeat, which takes the cancellation for its own.
            await asyncio.wait([joining], timeout=_RETRY_S)
        await coordinator._stop_heartbeat_task()
        # aiokafka must not leave a second time.
        coordinator.reset_generation()
        if coordinator._group_instance_id is None and member and coordinator.coordinator_id is not None:
            request = LeaveGroupRequest(coordinator.group_id, member)
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_LEAVE_S):
                    # Not on the group's connection: Kafka reads nothing more there before it has answered who joins.
                    await self._consumer._client.send(coordinator.coordinator_id, request)

    async def _watch(self, consumer: Any) -> None:
        """End the worker with what the coordinator or the fetcher died of: Faust asks neither, joined or not."""
        while not consumer._closed:
            try:
                consumer._coordinator.check_errors()
                check_fetching(consumer)
            except InconsistentGroupProtocolError:
                die(_mixed(self.app.conf, consumer.subscription()))
            except Exception as error:  # noqa: BLE001 - the process dies here
                die(error)
            await asyncio.sleep(_WATCH_S)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust reads uncommitted unless it runs its own transactions; these are read when the consumer starts.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = SHORT_WAIT_MS
        return consumer

    async def _commit(self, offsets: Any) -> Any:
        self._committing = True
        try:
            return await super()._commit(offsets)
        finally:
            self._committing = False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's detector looks at acknowledgements, which we do not use; the watchdog takes its place."""

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: Any = None, max_records: Any = None
    ) -> dict[Any, Fetched]:
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        subscriptions = fetcher._subscriptions
        with subscriptions.fetch_context():
            records = await fetcher.fetched_records(active_partitions, timeout=timeout, max_records=max_records)
        generation = self.app.consumer_generation_id
        fetched = {}
        for tp, state in states(subscriptions).items():
            batch, after = records.get(tp, Taken()), state.position
            self.app.ownership.shared.clock.broker_wrote(broker_ms(state))
            self._ends.note(tp, state.highwater, state.timestamp)
            first = batch[0].offset if batch else after
            start = first if state.jumped else state.start
            is_wanted = active_partitions is None or tp in active_partitions
            if batch or (is_wanted and (after > start or state.jumped)):
                first_epoch, last_epoch = state.epochs
                arrival = Arrival(batch.to_send_on, self._ends.after_ms(tp, start), last_epoch)
                fetched[tp] = Fetched(batch, start, after, generation, arrival, first_epoch)
                state.hand_out()
        return fetched

    async def end_of_epoch(self, tp: TP, epoch: int) -> int | None:
        """As the function's."""
        return await end_of_epoch(self._consumer._client, tp, epoch, self.app.conf.broker_request_timeout)


def _mixed(conf: Any, topics: Iterable[str]) -> GroupMixed:
    return GroupMixed(
        f"the group's other workers read other topics: group={conf.id} own={','.join(sorted(topics))}; a worker with "
        "other topics or tables starts once all others have been stopped for kafka.session_timeout_s="
        f"{conf.broker_session_timeout:g}, or with another LURM_APP__ID"
    )


async def _made_already(*_: Any, **__: Any) -> None:
    """Instead of making a topic, which takes a right: each was made and checked before the worker started."""


class Consumer(driver.Consumer):
    """Faust's consumer for batch messages; the app carries our `Ownership` as ``app.ownership``."""

    create_topic = _made_already

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._expected: dict[TP, int] = {}
        # Of the leader that wrote what was read last, each behind the offset up to which that is.
        self._epochs: dict[TP, tuple[int, int]] = {}
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def leave_group(self) -> None:
        """As its thread's."""
        thread: ConsumerThread = self._thread
        await thread.call_thread(thread.leave_group)

    def _is_source(self, tp: TP) -> bool:
        return bool(tp.topic == self.app.ownership.shared.names.events)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Mapping[Any, Fetched]:
        # A copy: Faust hands its live, changing set to the fetcher.
        read = {tp for tp in active_partitions or () if self._is_to_be_read(tp)}
        wanted = read - self._full(read)
        if not wanted:
            await asyncio.sleep(_FULL_S)
            return {}
        # Whoever waits for the others' records would not see that there is room again.
        fetched: Mapping[Any, Fetched] = await super()._getmany(wanted, timeout if wanted == read else _FULL_S)
        return fetched

    def _is_to_be_read(self, tp: TP) -> bool:
        """Not the changelog of what we own and recovered, though Faust may say so after rebalances in quick succession.

        Its rows come from here, and what is fetched of them is old by then.
        """
        ownership = self.app.ownership
        if self._is_changelog_tp(tp):
            return not (ownership.recovered and tp.partition in ownership.partitions)
        return not self.app.rebalancing

    def _full(self, partitions: Iterable[TP]) -> set[TP]:
        """Who waits: for half of ``kafka.buffer_bytes`` to be applied of its topic, or for a batch of its source."""
        limit, changelog = self.app.buffer_bytes // 2, self.app.ownership.shared.names.changelog
        batches = waiting(self.app)
        if bytes_by_topic(batches)[changelog] > limit and self.flow_active:
            # A recovery applies several batches at once, and those it still waits for would never come.
            self.app.tables.recovery.flush_buffers()
            batches = waiting(self.app)
        n_bytes, n_batches = bytes_by_topic(batches), Counter(batch.tp for batch in batches)
        return {
            tp
            for tp in partitions
            if n_bytes[tp.topic] > limit or (self._is_source(tp) and n_batches[tp] >= _BATCHES_AHEAD)
        }

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, BatchMessage]]:
        """Yield fetched batches, dropping all that a rebalance has overtaken."""
        fetched, active = await self._wait_next_records(timeout)
        if fetched is None or self.should_stop or not self.flow_active:
            return
        for raw, batch in fetched.items():
            tp = ensure_TP(raw)
            await self._refuse_replaced(tp, batch)
            if not self.flow_active or batch.generation != self.app.consumer_generation_id:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                for message in self._messages(tp, batch):
                    yield tp, message

    def _messages(self, tp: TP, batch: Fetched) -> Iterator[BatchMessage]:
        expected = self._expected.get(tp)
        if expected is None or (self._is_source(tp) and self.app.rebalancing):
            return
        if batch.start != expected:
            self.log.warning("not contiguous: %s starts=%s expected=%s, seeking back", tp, batch.start, expected)
            del self._expected[tp]
            self.add_future(self._seek_back(tp, expected))
            return
        if batch.next == expected:
            return
        self._expected[tp], self._epochs[tp] = batch.next, (batch.next, batch.arrival.leader_epoch)
        last = batch.records[-1].timestamp / 1000.0 if batch.records else 0.0
        message = BatchMessage(
            tp.topic, tp.partition, batch.next - 1, last, 0, (), None, batch.records, None, 0, 0, tp,
            generation_id=batch.generation,
        )  # fmt: skip
        message.records, message.start, message.next = batch.records, batch.start, batch.next
        message.n_bytes, message.arrival = bytes_of(batch.records), batch.arrival
        yield message

    async def _refuse_replaced(self, tp: TP, batch: Fetched) -> None:
        """What follows was written by another leader: the topic must still hold what was applied of the last one.

        Not where something else lies between, as what an owner wrote into the changelog until it stands by again.
        """
        (read_to, applied), following = self._epochs.get(tp, _NOTHING_READ), batch.first_epoch
        follows = batch.start == self._expected.get(tp) == read_to
        if not follows or UNKNOWN_EPOCH in (applied, following) or applied == following:
            return
        thread: ConsumerThread = self._thread
        try:
            end = await thread.call_thread(thread.end_of_epoch, tp, applied)
            at = Position(tp.topic, tp.partition, batch.start, 0, batch.next)
            if not self._is_source(tp) and end is not None and end < batch.start:
                die(
                    "the changelog has lost what was applied, and goes on differently; a start begins anew with it: "
                    f"topic={tp.topic} partition={tp.partition} applied={batch.start} kept={end}"
                )
            n = n_replaced(at, self.app.epoch, applied, end, accept_loss=self.app.accept_data_loss)
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)
        self.app.ownership.shared.metrics.lost.inc(n)

    async def perform_seek(self) -> None:
        """Seek to what the partitions' own records say; the group's offset is the same unless it expired."""
        await super().perform_seek()
        partitions = self.app.ownership.partitions
        sources = {tp: partitions[tp.partition] for tp in map(ensure_TP, self.assignment()) if self._is_source(tp)}
        # The group's offset in a topic that is gone says nothing, and may take a moment to be replaced.
        committed = {tp: self._committed_offset.get(tp) for tp, each in sources.items() if not each.began_epoch}
        wanted = {tp: each.record.next_offset for tp, each in sources.items()}
        applied = {tp: (wanted[tp], each.record.leader_epoch) for tp, each in sources.items()}
        try:
            new = {tp for tp, each in sources.items() if each.store.record is None}
            positions = await self._checked(wanted, committed, new)
        except SourceLost as error:
            if await self.app.ownership.is_overtaken():
                die("another worker has gone on with a partition while this one recovered it")
            die(error)
        self._epochs.update(applied)
        await self.seek_wait(positions)
        self.app.ownership.ready = self.app.ownership.recovered

    async def _seek_back(self, tp: TP, expected: int) -> None:
        """Find out why a batch did not follow the last one, and go on where that one ended."""
        positions, partition = {tp: expected}, self.app.ownership.partitions.get(tp.partition)
        try:
            if self._is_source(tp) and partition is not None:
                source = await self.app.ownership.shared.source()
                source.continued(partition.record, tp.partition)
                positions = await self._checked(positions, {}, set())
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)
        if tp not in self._expected:
            await self.seek_wait(positions)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek, never before a topic's first offset, and expect what follows to start there."""
        earliest = await self.earliest_offsets(*partitions) if partitions else {}
        positions = {tp: max(offset, earliest.get(tp) or 0) for tp, offset in partitions.items()}
        await super().seek_wait(positions)
        self._expected.update({ensure_TP(tp): offset for tp, offset in positions.items()})

    async def _checked(
        self, wanted: Mapping[TP, int], committed: Mapping[TP, int | None], new: set[TP]
    ) -> dict[TP, int]:
        """Where to go on in each source partition, ``new`` ones never having begun. **Raises** `SourceLost`."""
        first = await self.earliest_offsets(*wanted) if wanted else {}
        end = await self.highwaters(*wanted) if wanted else {}
        shared, epoch = self.app.ownership.shared, self.app.epoch
        positions = {}
        for tp, offset in wanted.items():
            limits = (first.get(tp) or 0, end.get(tp) or 0)
            at = Position(tp.topic, tp.partition, offset, *limits, committed.get(tp) or 0, tp not in new)
            shared.metrics.lost.inc(n_lost(at, epoch, accept_loss=self.app.accept_data_loss))
            positions[tp] = max(offset, at.first)
        return positions

    def _new_offset(self, tp: TP) -> int | None:
        return None if self._is_source(tp) else super()._new_offset(tp)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish what is in flight before anything is given up."""
        self.stop_flow()
        self.app.flow_control.suspend()
        limit = self.app.conf.broker_rebalance_timeout * _DRAIN_SHARE
        try:
            async with asyncio.timeout(limit):
                await self.app.ownership.drain()
        except TimeoutError:
            die(f"batches in flight did not finish within {limit:.0f} s of a rebalance")
        for tp in revoked:
            self._expected.pop(ensure_TP(tp), None)
        self._buffered_partitions.clear()
        await super().on_partitions_revoked(revoked)


class Producer(driver.Producer):
    """Faust's own producer, which has nothing to do here."""

    create_topic = _made_already

    def _settings_extra(self) -> Mapping[str, Any]:
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):
    """The driver, registered by `stream.worker.app` under its own scheme."""

    Consumer = Consumer
    Producer = Producer
