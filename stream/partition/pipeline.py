"""What the partitions of an application share, made of its settings, its model and what its surroundings say."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from lurm_model.bundle import Bundle
from state.periods import Scale, format_scales
from state.record import PartitionRecord
from state.walk import Output
from stream.kafka.clock import Clock
from stream.kafka.source import Source
from stream.metrics import WorkerMetrics
from stream.partition.partition import Names, Pipeline
from stream.partition.placement import Placement
from stream.records.events import EventDecoder, Limits
from stream.records.new_items import LearnedItems
from stream.settings import Settings


class Surroundings(NamedTuple):
    """What a worker asks its broker, or a test answers itself."""

    source: Callable[[], Awaitable[Source]]
    output: Callable[[], Awaitable[Output]]
    first_offsets: Callable[[], Awaitable[Mapping[int, int]]]
    dead_letter_bytes_max: int
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    clock: Clock | None = None


def pipeline(
    settings: Settings,
    bundle: Bundle,
    items: LearnedItems,
    metrics: WorkerMetrics,
    around: Surroundings,
) -> Pipeline:
    """What all partitions of a worker share. The state's scales are the bundle's."""
    scales: tuple[Scale, ...] = bundle.scales
    clock = around.clock or Clock(around.now_ms)
    events, topics = settings.events, settings.topics
    limits = Limits.of(events, scales)
    return Pipeline(
        names=Names(
            events=topics.events,
            changelog=settings.changelog_topic,
            dead_letters=topics.dead_letters,
            embeddings=topics.embeddings,
            control=settings.control_topic,
            erasures=settings.erasures_topic,
            group=settings.app.id,
        ),
        source=around.source,
        output=around.output,
        first_offsets=around.first_offsets,
        decoder=EventDecoder(bundle.codebook, events.weights, limits, items.interest_of),
        placement=Placement(topics.events, topics.partitions, topics.partitioner, metrics),
        scales=scales,
        empty_record=PartitionRecord(bundle.codebook.interest_space_id, format_scales(scales)),
        dead_letter_bytes_max=around.dead_letter_bytes_max,
        metrics=metrics,
        now_ms=clock.now_ms,
        clock=clock,
    )
