"""Encode changed users again and publish their embeddings, in cycles of each partition, oldest marks first.

Every cycle takes all users that are dirty when it starts. However many events came, a user is encoded once: under
overload freshness degrades and correctness does not. Partitions take turns at encoding, a batch each, in executor
threads; each publishes for itself, so that none waits for another's broker or backlog.
"""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Protocol

import numpy as np

from lurm_model.inference.incremental import IncrementalEncoder
from state.caches import NONE
from state.dirty import Mark
from state.view import StoreView
from state.walk import Walk
from stream.failpoints import passing
from stream.fatal import die
from stream.partition.encoding import EncodedUsers, encode_users
from stream.partition.partition import Partition, Pipeline
from stream.records.embedding_record import EmbeddingWriter
from stream.records.outgoing import Outgoing

logger = logging.getLogger("lurm")

# Encoded and not published yet, over all partitions: each holds its users' vectors, caches and records in memory.
_BATCHES_HELD = 16


class Owned(Protocol):
    """The partitions whose users are encoded, and whether work is allowed now."""

    partitions: dict[int, Partition]
    recovered: bool

    @property
    def shared(self) -> Pipeline:
        """What they share."""


class Reencoder:
    """Runs the encode cycles of a worker."""

    def __init__(
        self,
        ownership: Owned,
        encoder: IncrementalEncoder,
        writer: EmbeddingWriter,
        interval_s: float,
        batch_users: int,
    ) -> None:
        self._ownership = ownership
        self._encoder = encoder
        self._writer = writer
        self._interval_s = interval_s
        self._batch_users = batch_users
        self.n_batches = 0
        self._n_hurried = 0
        self._hurry = asyncio.Event()
        self._turns = asyncio.Semaphore(encoder.n_threads)
        self._held = asyncio.Semaphore(_BATCHES_HELD)
        self._threads = ThreadPoolExecutor(encoder.n_threads, "lurm-encode", encoder.use_own_stream)

    async def run(self) -> None:
        """Follow every owned partition, until cancelled."""
        followed: dict[Partition, asyncio.Task[None]] = {}
        try:
            while True:
                owned = set(self._ownership.partitions.values())
                for partition in owned - followed.keys():
                    followed[partition] = asyncio.create_task(self._follow(partition))
                for partition in followed.keys() - owned:
                    followed.pop(partition).cancel()
                await self._pause(self._interval_s)
                self._hurry.clear()
        finally:
            for task in followed.values():
                task.cancel()

    def hurry(self) -> None:
        """Begin the next cycles at once, whatever the interval; a walk over everybody gives way to them."""
        self._n_hurried += 1
        self._hurry.set()

    async def encode_all(self, partition: Partition) -> None:
        """Encode everybody who is dirty now, and walk over everybody if a walk is due, to its end."""
        await self._cycle(partition)
        await self._sweep_until(partition, math.inf)

    def close(self) -> None:
        """End the threads, once nothing is encoded any more."""
        self._threads.shutdown()

    async def _follow(self, partition: Partition) -> None:
        """Cycle as long as the partition is owned."""
        try:
            while self._owns(partition):
                end_s = perf_counter() + self._interval_s
                await self._cycle(partition)
                await self._sweep_until(partition, end_s)
                await self._pause(end_s - perf_counter())
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, unless there is hurry."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), max(0.0, seconds))

    def _owns(self, partition: Partition) -> bool:
        return self._ownership.partitions.get(partition.number) is partition

    def _may_encode(self, partition: Partition) -> bool:
        """Whether it is ours and recovered, and no rebalance wants it."""
        return self._ownership.recovered and self._owns(partition)

    async def _cycle(self, partition: Partition) -> None:
        """Encode all users that are dirty now, in batches; give way as soon as a rebalance wants the partition."""
        remaining = len(partition.store.marks) if self._may_encode(partition) else 0
        while remaining > 0:
            async with partition.encoding:
                n_done = len(await self._encode_and_publish(partition))
            remaining = remaining - n_done if n_done else 0

    async def _encode_and_publish(self, partition: Partition, users: Sequence[bytes] | None = None) -> Sequence[bytes]:
        """A batch of the users who are dirty, or of these; returns them, none when a rebalance wants the partition."""
        async with self._held:
            async with self._turns:
                if not self._may_encode(partition):
                    return []
                taken = partition.store.marks.take(self._batch_users) if users is None else {}
                users = list(taken) if users is None else users
                if not users:
                    return []
                encoded = await self._encode(partition, users, taken)
            await self._publish(partition, encoded, taken)
        return users

    async def _publish(self, partition: Partition, encoded: EncodedUsers, taken: Mapping[bytes, Mark]) -> None:
        """Marks and caches change last: whatever a crash prevents before is repeated."""
        passing("encode.encoded")
        await partition.publish(self._outgoing(partition, encoded))
        now_ms = self._ownership.shared.now_ms()
        metrics = self._ownership.shared.metrics
        metrics.published.inc(len(encoded.users))
        metrics.norm.set(encoded.mean_norm)
        for user, mark in taken.items():
            if user not in encoded.refused and mark.first_ms > 0:
                metrics.freshness.observe(max(0.0, (now_ms - mark.first_ms) / 1000))
        if encoded.refused:
            # Their marks go all the same: the same rows would give the same again.
            metrics.publishing.refused.inc(len(encoded.refused))
            logger.error("vectors that are no numbers: partition=%d users=%d", partition.number, len(encoded.refused))
        await partition.roll_up(encoded.to_roll_up)
        marks = partition.store.marks.publish(taken)
        partition.store.clear_marks(marks, encoded.caches)
        self.n_batches += 1
        passing("encode.cleared")

    async def _sweep_until(self, partition: Partition, end_s: float) -> None:
        """While a walk over everybody is under way: a batch of it at least, and what is left of the interval."""
        n_hurried = self._n_hurried
        while True:
            async with partition.encoding:
                if not self._may_encode(partition):
                    return
                walk = partition.publication.walk
                if walk is not None:
                    await self._sweep(partition, walk)
                await partition.note_published()
            if walk is None or perf_counter() >= end_s or self._n_hurried > n_hurried:
                return

    async def _sweep(self, partition: Partition, walk: Walk) -> None:
        users = partition.store.users_after(walk.after, self._batch_users)
        if not users:
            logger.info("everybody was published again: partition=%d", partition.number)
            partition.publication.walk = None
        elif await self._encode_and_publish(partition, users):
            partition.publication.walk = walk.past(users[-1])
            self._ownership.shared.metrics.publishing.walked.inc(len(users))

    async def _encode(self, partition: Partition, users: Sequence[bytes], taken: Mapping[bytes, Mark]) -> EncodedUsers:
        # Marks, rows and caches are of one instant: nothing is awaited, so nothing written, since the marks were taken.
        view, never = partition.store.view(), Mark(0, 0, 0, NONE)
        changed = sorted((user, taken.get(user, never).earliest_day) for user in users)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode_now, view, changed)

    def _encode_now(self, view: StoreView, changed: Sequence[tuple[bytes, int]]) -> EncodedUsers:
        metrics, start = self._ownership.shared.metrics, perf_counter()
        passing("encode.started")
        users, earliest_day = zip(*changed, strict=True)
        encoded = encode_users(view, self._encoder, users, np.array(earliest_day, np.int64))
        encoded = encoded.only(self._writer.are_numbers(encoded.vectors))
        metrics.encode.observe(perf_counter() - start)
        metrics.encode_users.observe(len(users))
        for outcome, n in encoded.outcomes.items():
            metrics.encode_cache.labels(outcome).inc(n)
        return encoded

    def _outgoing(self, partition: Partition, encoded: EncodedUsers) -> list[Outgoing]:
        return self._writer.records(partition.number, encoded, self._ownership.shared.now_ms())
