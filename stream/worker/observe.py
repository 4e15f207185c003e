"""Reads the gauges off Faust, aiokafka and RocksDB once a second: lag, recovery, dirty users, memory, disk."""

import logging
import math
import shutil
from typing import Any, Final

from aiokafka import TopicPartition

from state.store import NONE_APPLIED
from stream.driver.backlog import waiting
from stream.metrics import LOG_LEVELS, LOG_SOURCES, OUTCOMES, WorkerMetrics
from stream.partition.ownership import Ownership

logger = logging.getLogger("lurm")

_LOG_INTERVAL_S: Final = 2.0


class Observer:
    """Sets the gauges of one worker."""

    def __init__(self, app: Any, ownership: Ownership) -> None:
        self.behind = False
        self._recovering_since: tuple[float, int] | None = None
        self._logged_at_s = 0.0
        self._app = app
        self._ownership = ownership
        self._metrics = ownership.shared.metrics

    def observe(self, now_s: float) -> None:
        """Look once."""
        self._observe_lag(now_s)
        self._observe_ledger()
        self._observe_recovery(now_s)
        self._observe_state(now_s)

    def _observe_lag(self, now_s: float) -> None:
        source, self.behind = self._ownership.shared.names.events, False
        if not self._ownership.recovered:
            return  # what was seen last holds until the rebalance is over
        for number, partition in self._ownership.partitions.items():
            end = self._readable_end(source, number)
            if end is None:
                continue  # a lag of 0 would be a claim
            lag = max(0, end - partition.record.next_offset)
            self.behind = self.behind or lag > 0
            self._metrics.lag.labels(str(number)).set(lag)
            if not lag:
                self._metrics.lag_s.labels(str(number)).set(0)
            elif partition.newest_applied_ms:
                self._metrics.lag_s.labels(str(number)).set(max(0.0, now_s - partition.newest_applied_ms / 1000))

    def _observe_ledger(self) -> None:
        if not self._ownership.recovered:
            return
        held = self._ownership.partitions
        for number, partition in held.items():
            for outcome in OUTCOMES:
                self._metrics.ledger.labels(str(number), outcome).set(getattr(partition.record.ledger, outcome))
        self._metrics.ledger_broken.set(sum(bool(partition.record.faults()) for partition in held.values()))

    def _readable_end(self, topic: str, number: int) -> int | None:
        """The last stable offset: beyond it stand only records of open transactions. None until a fetch told it."""
        thread = self._app.consumer._thread  # noqa: SLF001 - Faust's consumer does not pass it on
        consumer = thread._consumer if thread is not None else None  # noqa: SLF001
        tp = TopicPartition(topic, number)
        if consumer is None or tp not in consumer.assignment():
            return None
        end: int | None = consumer.last_stable_offset(tp) or consumer.highwater(tp)
        return end

    def _observe_recovery(self, now_s: float) -> None:
        metrics, ownership = self._metrics, self._ownership
        remaining = 0 if ownership.recovered else self._remaining()
        eta_s = self._eta_s(now_s, remaining)
        metrics.recovery_remaining.set(remaining)
        metrics.recovery_eta_s.set(eta_s)
        metrics.standby_lag.set(self._standby_lag())
        metrics.ready.set(ownership.ready)
        owned = len(ownership.partitions)
        metrics.partitions.labels("active").set(owned)
        metrics.partitions.labels("standby").set(max(0, len(ownership.stores) - owned))

    def _remaining(self) -> int:
        """Changelog offsets not applied yet; Faust's own count takes what it buffers for applied."""
        recovery, remaining = self._app.tables.recovery, 0
        for tp, highwater in recovery.active_highwaters.items():
            store = self._ownership.stores.get(tp.partition)
            applied = NONE_APPLIED if store is None else store.changelog_offset
            first = recovery.active_offsets[tp] if applied == NONE_APPLIED else applied
            remaining += max(0, highwater - (NONE_APPLIED if first is None else first))
        return remaining

    def _standby_lag(self) -> int:
        """What Faust says is from when the standby began; an owner goes on writing."""
        highwaters, changelog = self._app.tables.recovery.standby_highwaters, self._ownership.shared.names.changelog
        lag = 0
        for number, store in self._ownership.stores.items():
            if number not in self._ownership.partitions:
                at_first = highwaters.get(TopicPartition(changelog, number), -1) + 1
                end = max(self._readable_end(changelog, number) or 0, at_first)
                lag += max(0, end - 1 - store.changelog_offset)
        return lag

    def _eta_s(self, now_s: float, remaining: int) -> float:
        """The rest of a recovery at its mean speed so far; NaN until there is one."""
        if not remaining:
            self._recovering_since = None
            return 0.0
        if self._recovering_since is None:
            self._recovering_since, self._logged_at_s = (now_s, remaining), -math.inf
        since_s, at_first = self._recovering_since
        done, elapsed_s = at_first - remaining, now_s - since_s
        eta_s = remaining * elapsed_s / done if done > 0 else math.nan
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            speed = done / elapsed_s if elapsed_s else math.nan
            logger.info("recovering: done=%d remaining=%d rows_per_s=%.0f eta_s=%.0f", done, remaining, speed, eta_s)
        return eta_s

    def _observe_state(self, now_s: float) -> None:
        metrics, partitions = self._metrics, list(self._ownership.partitions.values())
        metrics.clock_behind_s.set(self._ownership.shared.clock.behind_ms / 1000)
        metrics.dirty.set(sum(len(partition.store.marks) for partition in partitions))
        metrics.dirty_bytes.set(sum(store.marks.n_bytes for store in self._ownership.stores.values()))
        metrics.publishing.walking.set(sum(partition.publication.walk is not None for partition in partitions))
        oldest = [abs(mark.first_ms) for partition in partitions if (mark := partition.store.marks.oldest) is not None]
        metrics.oldest_mark_s.set(max(0.0, now_s - min(oldest) / 1000) if oldest else 0.0)
        sizes = [store.sizes() for store in self._ownership.stores.values()]
        metrics.rocksdb_disk.set(sum(size["disk_bytes"] for size in sizes))
        metrics.rocksdb_compaction.set(sum(size["compaction_bytes"] for size in sizes))
        metrics.rows.set(sum(size["rows"] for size in sizes))
        metrics.fetched.set(sum(batch.n_bytes for batch in waiting(self._app)))
        for kind, n_bytes in self._ownership.memory().items():
            metrics.rocksdb_memory.labels(kind).set(n_bytes)
        disk = shutil.disk_usage(self._ownership.folder)
        metrics.disk.labels("free").set(disk.free)
        metrics.disk.labels("total").set(disk.total)


class LogCounter(logging.Handler):
    """Counts warnings and errors by the library that logs them: what clients retry is seen nowhere else."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        super().__init__(logging.WARNING)
        self._messages = {
            (source, level): metrics.log_messages.labels(source, level)
            for source in LOG_SOURCES
            for level in LOG_LEVELS
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record."""
        library = record.name.partition(".")[0]
        source = library if library in LOG_SOURCES else "other"
        self._messages[source, "error" if record.levelno >= logging.ERROR else "warning"].inc()
