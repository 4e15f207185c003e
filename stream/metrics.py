"""Everything the worker counts, in a registry of its own. Names ``lurm_<noun>_<unit>[_total]``; closed label sets.

The help of a metric is its documentation: one sentence that says what it is, then what to do about it. `lurm metrics`
prints the table.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from state.record import Ledger
from stream.exits import ENDINGS
from stream.outcomes import ItemOutcome, Reason, RecordTime
from stream.publishing import WALK_CAUSES, PublishingMetrics

OUTCOMES: Final = ("received", "applied", "skipped", "rejected")
CACHE_OUTCOMES: Final = ("hit", "stale", "miss")
LOG_SOURCES: Final = ("aiokafka", "faust", "lurm", "other")
LOG_LEVELS: Final = ("warning", "error")
# What stands in the labels of closed sets, by metric.
LABEL_VALUES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "lurm_events": {"outcome": OUTCOMES},
    "lurm_rejections": {"reason": tuple(Reason)},
    "lurm_record_times": {"kind": tuple(RecordTime)},
    "lurm_placed_users": {"place": ("right", "wrong")},
    "lurm_item_records": {"outcome": tuple(ItemOutcome)},
    "lurm_stage_seconds": {"stage": ("decode", "assign", "merge", "store")},
    "lurm_ledger_events": {"outcome": OUTCOMES},
    "lurm_partitions": {"role": ("active", "standby")},
    "lurm_encode_cache": {"outcome": CACHE_OUTCOMES},
    "lurm_walks": {"cause": WALK_CAUSES},
    "lurm_rocksdb_memory_bytes": {"kind": ("cache", "memtables")},
    "lurm_disk_bytes": {"kind": ("free", "total")},
    "lurm_exits": {"how": ENDINGS},
    "lurm_log_messages": {"source": LOG_SOURCES, "level": LOG_LEVELS},
    "lurm_build_info": {"role": ("worker", "exporter")},
}
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_SIZES = (1.0, 10.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0)


def build_info(registry: CollectorRegistry) -> Gauge:
    """What every process of ours says of itself; set by `tell_build`."""
    return Gauge(
        "lurm_build_info",
        "Version, application and role of this process. More than one version: finish the rollout.",
        ["version", "app", "role"],
        registry=registry,
    )


def tell_build(info: Gauge, app_id: str, role: str) -> None:
    """Say which application and role this process has."""
    info.labels(version("lurm-stream"), app_id, role).set(1)


class WorkerMetrics:
    """The worker's metrics; every label value exists from the start: an absent series is an absent worker."""

    def __init__(self) -> None:
        # When a counter was made is known: lurm_process_start_time_seconds.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._add_events()
        self._add_times()
        self._add_partitions()
        self._add_encoding()
        self._add_embeddings()
        self.publishing = PublishingMetrics(self.registry)
        self._add_recovery()
        self._add_storage()
        self._add_process()
        self._touch_labels()

    def _add_events(self) -> None:
        registry = self.registry
        self.events = Counter(
            "lurm_events",
            "Source records by outcome: received = applied + skipped + rejected. A sum that is off: LurmLedgerBroken.",
            ["outcome"],
            registry=registry,
        )
        self.rejections = Counter(
            "lurm_rejections",
            "Rejected events by reason. Read the dead letters of the growing reason and mend its producer.",
            ["reason"],
            registry=registry,
        )
        self.unknown_items = Counter(
            "lurm_unknown_items",
            "Events of items without an interest. A growing share: `lurm items assign --send` the new items.",
            registry=registry,
        )
        self.learned_items = Gauge(
            "lurm_learned_items",
            "Items known from the items topic beside the bundle's. Millions take memory: `lurm items assign --out`.",
            registry=registry,
        )
        self.item_records = Counter(
            "lurm_item_records",
            "Records read from the items topic by outcome. learned, forgotten and in_bundle are well; any other grows:"
            " mend who writes them, until then these items are unknown.",
            ["outcome"],
            registry=registry,
        )
        self.lost = Counter(
            "lurm_lost_events",
            "Unread events that retention deleted. Lengthen the source's retention, find why workers were away.",
            registry=registry,
        )
        self.batch_events = Histogram(
            "lurm_batch_events",
            "Events per batch. Grows with the load; always at kafka.poll_events: add workers.",
            registry=registry,
            buckets=_SIZES,
        )
        self.stage = Histogram(
            "lurm_stage_seconds",
            "Time of a batch per stage. The stage that grew is the one to look at; store: the disk; assign: unknown"
            " items with attributes never seen, which `lurm items assign --send` spares.",
            ["stage"],
            registry=registry,
            buckets=_FAST,
        )
        self.changelog = Histogram(
            "lurm_changelog_seconds",
            "Transaction of a batch, begin to commit. Slow: look at the broker's request times and replicas.",
            registry=registry,
            buckets=_FAST,
        )

    def _add_times(self) -> None:
        registry = self.registry
        self.record_times = Counter(
            "lurm_record_times",
            "Applied events by their record's time. none, backdated: LurmFreshnessUnmeasured. ahead: LurmClockBehind.",
            ["kind"],
            registry=registry,
        )
        self.before_2000 = Counter(
            "lurm_events_before_2000",
            "Applied events whose ts lies before the year 2000. Grows: LurmEventTimes, their producer means no ms.",
            registry=registry,
        )

    def _add_partitions(self) -> None:
        registry = self.registry
        self.lag = Gauge(
            "lurm_consumer_lag_events",
            "Source records not applied yet. Grows: LurmLagGrowing; when no worker runs ask lurm_group_lag_events.",
            ["partition"],
            registry=registry,
        )
        self.lag_s = Gauge(
            "lurm_consumer_lag_seconds",
            "Age of the newest applied record while behind. As for lurm_consumer_lag_events.",
            ["partition"],
            registry=registry,
        )
        self.last_commit = Gauge(
            "lurm_last_commit_timestamp_seconds",
            "Unix time of the partition's last committed transaction. Old while there is lag: LurmNoCommit.",
            ["partition"],
            registry=registry,
        )
        self.ledger = Gauge(
            "lurm_ledger_events",
            "Source records since the partition's first, by outcome, whatever restarted. As for lurm_ledger_broken.",
            ["partition", "outcome"],
            registry=registry,
        )
        self.ledger_broken = Gauge(
            "lurm_ledger_broken",
            "Partitions held whose ledger lost or doubled a source record. Not 0: LurmLedgerBroken.",
            registry=registry,
        )
        self.partitions = Gauge(
            "lurm_partitions",
            "Partitions held. Their sum over all workers is the source's; if not, a worker is missing or rebalancing.",
            ["role"],
            registry=registry,
        )
        self.placed_users = Counter(
            "lurm_placed_users",
            "Users of batches by whether topics.partitioner puts them where they lie. wrong grows: LurmUsersMisplaced.",
            ["place"],
            registry=registry,
        )
        self.rebalances = Counter(
            "lurm_rebalances",
            "Assignments received from the group. Keeps growing: LurmRebalancing.",
            registry=registry,
        )

    def _add_encoding(self) -> None:
        registry = self.registry
        self.dirty = Gauge(
            "lurm_dirty_users",
            "Users that wait for a new embedding. Grows: encoding is slower than the change, add workers or a GPU.",
            registry=registry,
        )
        self.dirty_bytes = Gauge(
            "lurm_dirty_bytes",
            "Memory of dirty marks, standbys' too. At state.marks_bytes events wait for encoding, as above.",
            registry=registry,
        )
        self.oldest_mark_s = Gauge(
            "lurm_dirty_oldest_seconds",
            "Age of the oldest dirty mark. Above a few encode intervals: LurmEncodingBehind.",
            registry=registry,
        )
        self.encode = Histogram(
            "lurm_encode_seconds",
            "Encoding of one batch. Slow: look for the device in lurm_model_info, and at what else uses it.",
            registry=registry,
            buckets=_FAST,
        )
        self.encode_users = Histogram(
            "lurm_encode_users",
            "Users per encoded batch. Always at encode.batch_users: encoding has a backlog.",
            registry=registry,
            buckets=_SIZES,
        )
        self.encode_cache = Counter(
            "lurm_encode_cache",
            "Encoded users by their hidden cache. Mostly stale for hours: events come a day late, each costs a life.",
            ["outcome"],
            registry=registry,
        )

    def _add_embeddings(self) -> None:
        registry = self.registry
        self.published = Counter(
            "lurm_embeddings_published",
            "Acknowledged embeddings. Stands still while users are dirty: LurmEncodingBehind.",
            registry=registry,
        )
        self.publish = Histogram(
            "lurm_publish_seconds",
            "Transaction of a batch of embeddings, begin to commit. Slow: look at the broker, as for the changelog.",
            registry=registry,
            buckets=_FAST,
        )
        self.freshness = Histogram(
            "lurm_freshness_seconds",
            "Kafka record time of a user's first unpublished event to the acknowledged embedding."
            " Late: LurmFreshnessBurnFast; compare lag and dirty users to see which half is slow.",
            registry=registry,
            buckets=_SLOW,
        )
        self.norm = Gauge(
            "lurm_embedding_norm",
            "Mean length of the vectors of the last encoded batch. Moves away for days: the users or the items"
            " changed, evaluate the model again.",
            registry=registry,
        )
        self.rolled_up = Counter(
            "lurm_rolled_up_rows",
            "Day rows moved into coarser periods. Peaks after a month's turn; nothing to do.",
            registry=registry,
        )
        self.erasures = Counter(
            "lurm_erasures",
            "Erasures done, one per partition and user. Less than partitions times users: a partition has no worker.",
            registry=registry,
        )
        self.refused_control = Counter(
            "lurm_refused_control_records",
            "Records of the control and erasures topics that are none of ours. Any: LurmForeignControlRecords.",
            registry=registry,
        )

    def _add_recovery(self) -> None:
        registry = self.registry
        self.ready = Gauge(
            "lurm_ready",
            "1 when every partition held is recovered, as /readyz says. 0 for long: LurmRecoverySlow.",
            registry=registry,
        )
        self.recovery_remaining = Gauge(
            "lurm_recovery_remaining_rows",
            "Changelog offsets to read until recovered. Does not fall: look at the broker and the disk.",
            registry=registry,
        )
        self.recovery_eta_s = Gauge(
            "lurm_recovery_eta_seconds",
            "Estimated rest of the recovery, NaN until there is a speed. Too long: keep disks, use standbys.",
            registry=registry,
        )
        self.standby_lag = Gauge(
            "lurm_standby_lag_rows",
            "Changelog offsets standbys are behind. Grows: a take-over will take as long as reading them.",
            registry=registry,
        )
        self.replayed = Counter(
            "lurm_replayed_rows",
            "Changelog records applied by recovery and standby. Large after restarts: disks are not kept.",
            registry=registry,
        )

    def _add_storage(self) -> None:
        registry = self.registry
        self.fetched = Gauge(
            "lurm_fetched_bytes",
            "Memory of records fetched and not applied yet. Bounded by kafka.buffer_bytes: lower that when"
            " memory is short.",
            registry=registry,
        )
        self.rocksdb_memory = Gauge(
            "lurm_rocksdb_memory_bytes",
            "RocksDB memory. Near state.cache_bytes and state.memtable_bytes, which bound it softly: lower them when"
            " memory is short.",
            ["kind"],
            registry=registry,
        )
        self.rocksdb_disk = Gauge(
            "lurm_rocksdb_disk_bytes",
            "Bytes of all databases. Size the disk for twice this: compaction needs room.",
            registry=registry,
        )
        self.rocksdb_compaction = Gauge(
            "lurm_rocksdb_compaction_bytes",
            "Bytes that wait for compaction. Grows without end: the disk is too slow for the writes.",
            registry=registry,
        )
        self.rows = Gauge(
            "lurm_rows",
            "Estimated rows in all databases. Grows with users and days until roll-up; plan disks with it.",
            registry=registry,
        )
        self.disk = Gauge(
            "lurm_disk_bytes",
            "The file system of the state. Free runs out: LurmDiskFull.",
            ["kind"],
            registry=registry,
        )

    def _add_process(self) -> None:
        registry = self.registry
        self.build = build_info(registry)
        self.model = Gauge(
            "lurm_model_info",
            "Model, spaces and device in use. More than one model: finish the rollout (LurmMixedModels).",
            ["model_id", "space_id", "interest_space_id", "device"],
            registry=registry,
        )
        self.exits = Counter(
            "lurm_exits",
            "How earlier processes on this state folder ended. watchdog, failed or killed grows: LurmWorkerExits.",
            ["how"],
            registry=registry,
        )
        self.clock_behind_s = Gauge(
            "lurm_clock_behind_seconds",
            "How far this clock is behind what brokers wrote, whose time is used meanwhile. Not 0: LurmClockBehind.",
            registry=registry,
        )
        self.log_messages = Counter(
            "lurm_log_messages",
            "Warnings and errors logged, by library. aiokafka's grow: the broker refuses or is away, read the log.",
            ["source", "level"],
            registry=registry,
        )
        # CPU, memory and open files of the process, and when it started.
        ProcessCollector(namespace="lurm", registry=registry)

    def _touch_labels(self) -> None:
        counters = (
            *(self.events, self.rejections, self.record_times, self.placed_users, self.item_records),
            *(self.encode_cache, self.exits, self.log_messages),
        )
        for counter in counters:
            for family in counter.describe():
                for values in product(*LABEL_VALUES[family.name].values()):
                    counter.labels(*values)

    def count(self, ledger: Ledger) -> None:
        """Add what one batch did to the conservation ledger."""
        for outcome in OUTCOMES:
            self.events.labels(outcome).inc(getattr(ledger, outcome))

    def forget(self, partition: int) -> None:
        """Stop reporting a partition: it is another worker's."""
        for gauge in (self.lag, self.lag_s, self.last_commit):
            gauge.remove(str(partition))
        for outcome in OUTCOMES:
            self.ledger.remove(str(partition), outcome)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Observe how long a stage of a batch takes."""
        start = perf_counter()
        yield
        self.stage.labels(stage).observe(perf_counter() - start)
