"""Wires a worker together: Faust with our driver and store, the ownership, the encode cycles, watchdog and health.

The way of an event: `transport` (fetched batch) -> here -> `partition` (one transaction, one WriteBatch) with
`events`, `ingest` and `state` -> `reencode` -> the embeddings topic.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from lurm_model.bundle import Bundle
from lurm_model.inference.incremental import IncrementalEncoder
from state.options import StoreOptions, StoreResources
from state.walk import Output
from stream.driver.faust_app import faust_app
from stream.driver.stopping import FaustWorker
from stream.errors import ConfigInvalid
from stream.exits import ExitLog
from stream.fatal import EXIT_FATAL, die
from stream.kafka.output import read_output
from stream.kafka.source import Source, ask, first_offsets, read_changelog_id, read_source
from stream.kafka.topics import message_bytes_max
from stream.metrics import WorkerMetrics, tell_build
from stream.partition.encoding import leave_a_core
from stream.partition.ownership import Ownership
from stream.partition.pipeline import Surroundings, pipeline
from stream.partition.reencode import Reencoder
from stream.records.embedding_record import EmbeddingWriter
from stream.records.new_items import LearnedItems
from stream.settings import Settings
from stream.worker.control import ControlReader
from stream.worker.descriptors import open_files_max, raise_limit
from stream.worker.event_loop import LoopPolicy
from stream.worker.health import HealthServer
from stream.worker.items_reader import ItemsReader
from stream.worker.keep_alive import keep_alive
from stream.worker.observe import LogCounter, Observer
from stream.worker.output_watch import OutputWatch
from stream.worker.watchdog import Progress, Watchdog

logger = logging.getLogger("lurm")

TABLE: Final = "bags"
# A batch makes some 100,000 short-lived objects without cycles; at Python's threshold of 700 the garbage collector
# would look at all of them again and again, which costs as much as decoding.
_GC_THRESHOLDS: Final = (200_000, 20, 20)
_MARKS_WAIT_S: Final = 0.05
# How often folders of partitions that went elsewhere are looked at, beside once the worker is ready.
_OLD_INTERVAL_S: Final = 86_400.0


class Worker:
    """One worker process: built from data, run by `execute`."""

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.metrics = WorkerMetrics()
        self._items = ItemsReader(settings, LearnedItems(bundle.codebook), self.metrics)
        self.ownership = _ownership(settings, bundle, self._items)
        self.app = faust_app(settings, self.ownership)
        writer = EmbeddingWriter(bundle.model_id, bundle.space_id, settings.encode.dtype)
        leave_a_core()
        encoder = IncrementalEncoder(bundle, settings.model.device)
        self._describe(bundle, encoder.device)
        encode = settings.encode
        self._reencoder = Reencoder(self.ownership, encoder, writer, encode.interval_s, encode.batch_users)
        self._control = ControlReader(self.ownership, settings)
        self._output_watch = OutputWatch(self.ownership, settings, bundle.model_id)
        self._n_batches = 0
        self._heartbeat = 0
        self._observer = Observer(self.app, self.ownership)
        self._watchdog = Watchdog(self._progress, self._dead, settings.worker.stuck_s_max)
        self._register()

    def execute(self) -> None:
        """Run until stopped by a signal; ends the process."""
        # The consumer's thread makes a loop of its own, so it is the policy that must be set.
        asyncio.set_event_loop_policy(LoopPolicy())
        # Before the first recovery, which may hang as any later one.
        self._watchdog.start()
        health = HealthServer(
            (self.settings.metrics.host, self.settings.metrics.port),
            self.metrics.registry,
            token=self.settings.metrics.token.get_secret_value(),
            live=self._watchdog.is_alive,
            ready=lambda: self.ownership.ready and not self.app.should_stop,
        )
        logger.info("serving metrics: address=%s:%d", self.settings.metrics.host, health.port)
        exits = self._count_exits()
        # What stands now stays: the model, the codebook, the modules.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        worker = FaustWorker(self.app, exits)
        try:
            worker.execute_from_commandline()
        except SystemExit as end:
            exits.note("failed" if end.code else "stopped")
            # Faust ends with 1 when a part of it crashed, which says nothing of broker or source.
            raise SystemExit(EXIT_FATAL if end.code else 0) from end
        finally:
            health.close()

    def _count_exits(self) -> ExitLog:
        exits = ExitLog(self.ownership.folder / "exits.json")
        for how, n in exits.counts.items():
            self.metrics.exits.labels(how).inc(n)
        logging.getLogger().addHandler(exits)
        logging.getLogger().addHandler(LogCounter(self.metrics))
        return exits

    def _register(self) -> None:
        app, settings = self.app, self.settings
        n = settings.topics.partitions
        raw = {"key_serializer": "raw", "value_serializer": "raw", "value_type": bytes}
        source = app.topic(settings.topics.events, partitions=n, acks=False, **raw)
        # Fetched batches applied at once: many while recovering, each as it comes while standing by.
        app.Table(TABLE, key_type=bytes, value_type=bytes, partitions=n, recovery_buffer_size=8, standby_buffer_size=1)
        app.agent(source, name="ingest")(self._consume)
        app.early = (self._beat, self._learn, self._tidy)
        app.task(self._encode)
        app.task(self._erase)
        app.task(self._watch_output)
        app.task(self._keep_alive)

    def _describe(self, bundle: Bundle, device: str) -> None:
        interest_space_id = bundle.codebook.interest_space_id
        self.metrics.model.labels(bundle.model_id, bundle.space_id, interest_space_id, device).set(1)
        tell_build(self.metrics.build, self.settings.app.id, "worker")

    async def _consume(self, fetched: Any) -> None:
        async for event in fetched.events():
            await self._encoded_enough()
            task = asyncio.create_task(self._apply(event.message))
            self.ownership.applying[task] = event.message
            task.add_done_callback(self.ownership.applying.pop)

    async def _encoded_enough(self) -> None:
        """While the dirty marks exceed their memory, encode at once, whatever the interval, and take no more events."""
        while self._has_too_many_marks() and not self.app.should_stop:
            self._reencoder.hurry()
            await asyncio.sleep(_MARKS_WAIT_S)

    def _has_too_many_marks(self) -> bool:
        # A copy: the watchdog asks from its own thread.
        partitions = list(self.ownership.partitions.values())
        return sum(partition.store.marks.n_bytes for partition in partitions) > self.settings.state.marks_bytes

    async def _apply(self, message: Any) -> None:
        """Apply one batch. An exception never reaches the stream, where Faust would acknowledge and go on (I9)."""
        partition = self.ownership.partitions.get(message.partition)
        try:
            # A batch that a rebalance overtook will be fetched again by whoever owns the partition now.
            if partition is not None and self._is_current(message):
                await partition.apply(message.records, message.next, lambda: self._is_current(message), message.arrival)
                self._n_batches += 1
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    def _is_current(self, message: Any) -> bool:
        current: bool = message.generation_id == self.app.consumer_generation_id
        return current and self.app.flow_control.is_active() and self.ownership.recovered

    async def _encode(self) -> None:
        try:
            await self._reencoder.run()
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _erase(self) -> None:
        try:
            await self._control.run()
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _watch_output(self) -> None:
        try:
            await self._output_watch.run()
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _keep_alive(self) -> None:
        try:
            await keep_alive(self.ownership, self.settings)
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _learn(self) -> None:
        try:
            await self._items.run()
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _beat(self) -> None:
        while not self.app.should_stop:
            self._heartbeat += 1
            self._observer.observe(self.ownership.shared.clock.now_ms() / 1000)
            await asyncio.sleep(1.0)

    async def _tidy(self) -> None:
        """Beside the heartbeat: there may be hundreds of folders."""
        try:
            while True:
                # Not before the first assignment, when every partition would look as if it had gone elsewhere.
                ready = self.ownership.ready
                if ready:
                    await self.ownership.remove_old(time.time())
                await asyncio.sleep(_OLD_INTERVAL_S if ready else 1.0)
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    def _progress(self) -> Iterator[Progress]:
        app, ownership = self.app, self.ownership
        # The heartbeat starts with the app; until then torch or a taken folder may hold the thread.
        yield Progress("the event loop", self._heartbeat, idle=app.should_stop or not self._heartbeat)
        recovering = app.rebalancing and not ownership.recovered
        recovered = (app.consumer_generation_id, ownership.n_replayed, self._items.n_read)
        yield Progress("recovery", recovered, idle=not recovering)
        encoded = self._reencoder.n_batches if self._has_too_many_marks() else None
        # A copy: the event loop changes it. A large batch may move it more than once.
        applied = sum(partition.record.next_offset for partition in list(ownership.partitions.values()))
        yield Progress("the source", (self._n_batches, applied, encoded), idle=not self._observer.behind)
        # A copy: the event loop changes it.
        for partition in list(ownership.partitions.values()):
            for producer in partition.producers:
                name = f"a transaction of partition {partition.number} ({producer.id})"
                yield Progress(name, producer.n_done, idle=not producer.in_flight)
        yield Progress("the end", None, idle=not app.should_stop, stuck_s_max=self.settings.worker.stop_s_max)

    def _dead(self) -> Iterator[str]:
        for number in self.ownership.dead_producers():
            yield f"the producer of partition {number} is dead"


def _ownership(settings: Settings, bundle: Bundle, items: ItemsReader) -> Ownership:
    state = settings.state
    if state.dir is None:
        raise ConfigInvalid("no folder for the state: set LURM_STATE__DIR")

    async def source() -> Source:
        # No event is counted before its item can be known.
        await items.caught_up()
        return await ask(read_source, settings)

    async def changelog_id() -> str:
        return await ask(read_changelog_id, settings)

    async def output() -> Output:
        return await ask(partial(read_output, model_id=bundle.model_id), settings)

    async def first() -> dict[int, int]:
        return await ask(first_offsets, settings)

    around = Surroundings(source, output, first, message_bytes_max(settings, settings.topics.dead_letters))
    shared = pipeline(settings, bundle, items.learned, items.metrics, around)
    limit = raise_limit()
    open_files = open_files_max(settings, limit)
    if open_files < state.open_files_max:
        logger.warning(
            "each database keeps fewer files open, for all partitions to fit into the limit: "
            "open_files_max=%d state.open_files_max=%d topics.partitions=%d limit=%d",
            open_files, state.open_files_max, settings.topics.partitions, limit,
        )  # fmt: skip
    resources = StoreResources(StoreOptions(state.cache_bytes, state.memtable_bytes, open_files))
    return Ownership(state.dir / settings.app.id, resources, settings.kafka, shared, changelog_id)
