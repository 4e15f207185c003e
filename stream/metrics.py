"""Everything the worker counts, in a registry of its own. Names ``lurm_<noun>_<unit>[_total]``; closed label sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from state.record import Ledger
from stream.events import Reason

OUTCOMES: Final = ("received", "applied", "skipped", "rejected")
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_SIZES = (1.0, 10.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0)


class WorkerMetrics:
    """The worker's metrics; every label value exists from the start: an absent series is an absent worker."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter("lurm_events", "Source records by outcome", ["outcome"], registry=registry)
        self.rejections = Counter("lurm_rejections", "Rejected events by reason", ["reason"], registry=registry)
        self.unknown_items = Counter("lurm_unknown_items", "Events of items without an interest", registry=registry)
        self.lost = Counter("lurm_lost_events", "Unread events that retention deleted", registry=registry)
        self.batch_events = Histogram("lurm_batch_events", "Events per batch", registry=registry, buckets=_SIZES)
        self.stage = Histogram(
            "lurm_stage_seconds", "Time of a batch per stage", ["stage"], registry=registry, buckets=_FAST
        )
        self.changelog = Histogram(
            "lurm_changelog_seconds", "Transaction of a batch, begin to commit", registry=registry, buckets=_FAST
        )
        self.lag = Gauge("lurm_consumer_lag_events", "Source records not applied yet", ["partition"], registry=registry)
        self.lag_s = Gauge(
            "lurm_consumer_lag_seconds",
            "Age of the newest applied record while behind",
            ["partition"],
            registry=registry,
        )
        self.dirty = Gauge("lurm_dirty_users", "Users that wait for a new embedding", registry=registry)
        self.oldest_mark_s = Gauge("lurm_dirty_oldest_seconds", "Age of the oldest dirty mark", registry=registry)
        self.encode = Histogram("lurm_encode_seconds", "Encoding of one batch", registry=registry, buckets=_FAST)
        self.encode_users = Histogram("lurm_encode_users", "Users per encoded batch", registry=registry, buckets=_SIZES)
        self.published = Counter("lurm_embeddings_published", "Acknowledged embeddings", registry=registry)
        self.freshness = Histogram(
            "lurm_freshness_seconds",
            "Kafka record time of a user's first unpublished event to the acknowledged embedding",
            registry=registry,
            buckets=_SLOW,
        )
        self.rolled_up = Counter("lurm_rolled_up_rows", "Day rows moved into coarser periods", registry=registry)
        self.erasures = Counter("lurm_erasures", "Erasures done, one per partition", registry=registry)
        self.recovery_remaining = Gauge("lurm_recovery_remaining_rows", "Changelog offsets to read", registry=registry)
        self.recovery_eta_s = Gauge(
            "lurm_recovery_eta_seconds", "Estimated rest of the recovery, NaN until there is a speed", registry=registry
        )
        self.standby_lag = Gauge("lurm_standby_lag_rows", "Changelog offsets standbys are behind", registry=registry)
        self.replayed = Counter("lurm_replayed_rows", "Changelog records applied", registry=registry)
        self.partitions = Gauge("lurm_partitions", "Partitions held", ["role"], registry=registry)
        self.rocksdb_memory = Gauge("lurm_rocksdb_memory_bytes", "RocksDB memory", ["kind"], registry=registry)
        self.rocksdb_disk = Gauge("lurm_rocksdb_disk_bytes", "Bytes of all databases", registry=registry)
        self.rows = Gauge("lurm_rows", "Estimated rows in all databases", registry=registry)
        self.ready = Gauge("lurm_ready", "1 when every assigned partition is recovered", registry=registry)
        self.model = Info("lurm_model", "Model and interest space in use", registry=registry)
        self._touch_labels()

    def _touch_labels(self) -> None:
        for outcome in OUTCOMES:
            self.events.labels(outcome)
        for reason in Reason:
            self.rejections.labels(reason.value)

    def count(self, ledger: Ledger) -> None:
        """Add what one batch did to the conservation ledger."""
        for outcome in OUTCOMES:
            self.events.labels(outcome).inc(getattr(ledger, outcome))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Observe how long a stage of a batch takes."""
        start = perf_counter()
        yield
        self.stage.labels(stage).observe(perf_counter() - start)
