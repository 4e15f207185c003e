"""Encode changed users again and publish their embeddings, in cycles, oldest marks first.

Every cycle takes all users that are dirty when it starts. However many events came, a user is encoded once: under
overload freshness degrades and correctness does not. Encoding runs in executor threads, never on the event loop.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter

import numpy as np

from lurm_model.incremental import IncrementalEncoder
from state.caches import NONE
from state.dirty import Mark
from state.view import StoreView
from stream.embedding_record import EmbeddingWriter
from stream.encoding import EncodedUsers, encode_users
from stream.failpoints import passing
from stream.ownership import Ownership
from stream.partition import Partition
from stream.transactions import Outgoing


class Reencoder:
    """Runs the encode cycles of a worker; whoever sets ``hurry`` does not wait for the next interval."""

    def __init__(
        self,
        ownership: Ownership,
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
        self.hurry = asyncio.Event()
        self.n_batches = 0
        # One more than are encoded: it is published meanwhile, which mostly waits.
        self._turns = asyncio.Semaphore(encoder.n_threads + 1)
        self._threads = ThreadPoolExecutor(encoder.n_threads, "lurm-encode", encoder.use_own_stream)

    async def run(self) -> None:
        """Cycle until cancelled."""
        while True:
            end_s = perf_counter() + self._interval_s
            self.hurry.clear()
            partitions = list(self._ownership.partitions.values())
            await asyncio.gather(*map(self._cycle, partitions))
            for partition in partitions:
                await self._sweep_until(partition, end_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.hurry.wait(), max(0.0, end_s - perf_counter()))

    async def _cycle(self, partition: Partition) -> None:
        """Encode all users that are dirty now, in batches; give way as soon as a rebalance wants the partition."""
        remaining = len(partition.store.marks) if self._ownership.recovered else 0
        while remaining > 0:
            async with self._turns, partition.encoding:
                taken = self._take(partition)
                if not taken:
                    return
                await self._publish(partition, list(taken), taken)
            remaining -= len(taken)

    def _take(self, partition: Partition) -> dict[bytes, Mark]:
        owned = self._ownership.recovered and self._ownership.partitions.get(partition.number) is partition
        return partition.store.marks.take(self._batch_users) if owned else {}

    async def _publish(self, partition: Partition, users: Sequence[bytes], taken: Mapping[bytes, Mark]) -> None:
        """Encode and publish. Marks and caches change last: whatever a crash prevents before is repeated."""
        encoded = await self._encode(partition, users, taken)
        passing("encode.encoded")
        await partition.publish(self._outgoing(partition, encoded))
        now_ms = self._ownership.shared.now_ms()
        metrics = self._ownership.shared.metrics
        metrics.published.inc(len(encoded.users))
        metrics.norm.set(encoded.mean_norm)
        for mark in taken.values():
            metrics.freshness.observe(max(0.0, (now_ms - mark.first_ms) / 1000))
        await partition.roll_up(encoded.to_roll_up)
        marks = partition.store.marks.publish(taken)
        partition.store.clear_marks(marks, encoded.caches)
        self.n_batches += 1
        passing("encode.cleared")

    async def _sweep_until(self, partition: Partition, end_s: float) -> None:
        """After the model changed, walk over everybody: a batch at least, and what is left of the interval."""
        while True:
            async with partition.encoding:
                if not self._ownership.recovered:
                    return
                if partition.sweep_after is None:
                    await partition.note_published()
                    return
                await self._sweep(partition, partition.sweep_after)
            if perf_counter() >= end_s or self.hurry.is_set():
                return

    async def _sweep(self, partition: Partition, after: bytes) -> None:
        users = partition.store.users_after(after, self._batch_users)
        if users:
            await self._publish(partition, users, {})
        partition.sweep_after = users[-1] if users else None

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
        metrics.encode.observe(perf_counter() - start)
        metrics.encode_users.observe(len(users))
        for outcome, n in encoded.outcomes.items():
            metrics.encode_cache.labels(outcome).inc(n)
        return encoded

    def _outgoing(self, partition: Partition, encoded: EncodedUsers) -> list[Outgoing]:
        return self._writer.records(partition.number, encoded, self._ownership.shared.now_ms())
