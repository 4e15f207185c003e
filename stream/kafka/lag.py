"""How far the group is behind, asked of the broker: right also while no worker runs.

Events are offsets between the group's and the topic's last stable one; seconds are the age of the first record that is
not applied yet. Behind the last stable offset an open transaction hides all that comes, from whoever reads committed
records: what waits there is no lag of the group's, and is shown beside it.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import GroupAuthorizationFailedError, RetriableError
from prometheus_client import CollectorRegistry, Gauge

from stream.errors import BrokerUnavailable, ConfigInvalid, PermissionMissing
from stream.kafka.connection import admin, broker_errors, consumer_arguments, wait_for_partitions
from stream.kafka.permitted import existing
from stream.metrics import build_info, tell_build
from stream.settings import Settings

_POLL_MS = 100
_PAUSE_S = 0.2
_FETCH_BYTES = 1 << 16


class PartitionLag(NamedTuple):
    """One partition; ``committed`` is None while the group never committed there; ``end`` is the last stable offset."""

    partition: int
    committed: int | None
    end: int
    lag_events: int
    lag_seconds: float
    hidden_events: int = 0


class LagReader:
    """Asks the broker, over connections that it keeps."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        with ExitStack() as stack:
            self._admin = stack.enter_context(admin(settings))
            arguments = consumer_arguments(settings.kafka) | {"max_partition_fetch_bytes": _FETCH_BYTES}
            self._consumer = stack.enter_context(closing(KafkaConsumer(**arguments)))
            arguments["isolation_level"] = "read_uncommitted"
            self._everything = stack.enter_context(closing(KafkaConsumer(**arguments)))
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, now_s: float) -> list[PartitionLag]:
        """Every partition of the source. **Raises** `ConfigInvalid` when there is no such topic."""
        topic = self._settings.topics.events
        with broker_errors(self._settings.kafka, "Read"):
            found = existing(self._admin, [topic]).get(topic, {})
            numbers = sorted(each["partition_index"] for each in found.get("partitions", ()))
            if not numbers:
                raise ConfigInvalid(f"the events topic does not exist: topic={topic}; `lurm topics create` makes it")
            partitions = [TopicPartition(topic, number) for number in numbers]
            committed = self._committed(partitions)
            for consumer in (self._everything, self._consumer):
                wait_for_partitions(consumer, partitions, self._settings.kafka)
            # In this order: what comes between the answers is not taken for hidden.
            last = self._everything.end_offsets(partitions)
            first, end = self._consumer.beginning_offsets(partitions), self._consumer.end_offsets(partitions)
            start = {each: max(committed.get(each, 0), first[each]) for each in partitions}
            waiting = self._timestamps({each: start[each] for each in partitions if start[each] < end[each]}, end)
        return [
            PartitionLag(
                each.partition,
                committed.get(each),
                end[each],
                max(0, end[each] - start[each]),
                max(0.0, now_s - waiting[each] / 1000) if each in waiting else 0.0,
                max(0, last[each] - end[each]),
            )
            for each in partitions
        ]

    def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        group, deadline = self._settings.app.id, time.monotonic() + self._settings.kafka.start_deadline_s
        while True:
            try:
                answer = self._admin.list_group_offsets({group: partitions})[group]
            except GroupAuthorizationFailedError as error:
                raise PermissionMissing(f"Describe on group {group}") from error
            except RetriableError:
                # A cluster's first group waits until the topic of all groups is made.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return {each: found.offset for each, found in answer.items() if found.offset >= 0}

    def _timestamps(
        self, start: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """The timestamp of the first record at or after each start; none where only control records follow."""
        consumer, found = self._consumer, dict[TopicPartition, int]()
        consumer.assign(list(start))
        # A partition that is assigned again is still paused.
        consumer.resume(*start)
        for each, offset in start.items():
            consumer.seek(each, offset)
        kafka, missing = self._settings.kafka, set(start)
        deadline = time.monotonic() + kafka.start_deadline_s
        while missing:
            for each, records in consumer.poll(timeout_ms=_POLL_MS).items():
                found.setdefault(each, records[0].timestamp)
            done = {each for each in missing if each in found or consumer.position(each) >= end[each]}
            consumer.pause(*done)
            missing -= done
            if missing and time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the broker stopped delivering: topic={next(iter(missing)).topic} brokers={kafka.brokers}"
                )
        return found


class LagMetrics:
    """What `lurm exporter` serves. Nothing is served that was not true at the last look."""

    def __init__(self, app_id: str) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ["app", "partition"]
        self.lag = Gauge(
            "lurm_group_lag_events",
            "Source records that the group did not apply yet, from the broker. Grows: LurmLagGrowing, LurmGroupStuck.",
            labels,
            registry=registry,
        )
        self.lag_s = Gauge(
            "lurm_group_lag_seconds",
            "Age of the first record not applied yet. As for lurm_group_lag_events.",
            labels,
            registry=registry,
        )
        self.committed = Gauge(
            "lurm_group_committed_offset",
            "The group's offset, -1 when there is none. Stands still while there is lag: LurmGroupStuck.",
            labels,
            registry=registry,
        )
        self.hidden = Gauge(
            "lurm_group_hidden_events",
            "Source records that an open transaction of a producer hides from everybody. Stays: LurmOpenTransaction.",
            labels,
            registry=registry,
        )
        self.up = Gauge(
            "lurm_exporter_up",
            "1 when the broker answered the last look. 0: LurmExporterBlind.",
            registry=registry,
        )
        tell_build(build_info(registry), app_id, "exporter")
        self._app_id = app_id

    def show(self, partitions: list[PartitionLag]) -> None:
        """Show what was read."""
        for each in partitions:
            labels = (self._app_id, str(each.partition))
            self.lag.labels(*labels).set(each.lag_events)
            self.lag_s.labels(*labels).set(each.lag_seconds)
            self.committed.labels(*labels).set(-1 if each.committed is None else each.committed)
            self.hidden.labels(*labels).set(each.hidden_events)
        self.up.set(1)

    def show_nothing(self) -> None:
        """The broker did not answer: what was read before may be wrong by now."""
        for gauge in (self.lag, self.lag_s, self.committed, self.hidden):
            gauge.clear()
        self.up.set(0)
