"""Asking for an erasure: a marker into every control partition, then waiting for the owners' answers."""

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream.errors import ConfigInvalid, LurmError
from stream.kafka.connection import broker_errors, client_arguments, consumer_arguments
from stream.kafka.topics import end_offsets, ensure_control, n_partitions, topic_id
from stream.operations.replay import Progress, read_topic
from stream.records.erasure import Answer, Checked, Marker, decode, encode
from stream.settings import Settings

_POLL_MS = 200
# A check follows its answer at once; one that does not come was never sent.
_CHECK_S = 5.0

T = TypeVar("T", Answer, Checked)


@dataclass(frozen=True, slots=True)
class Request:
    """An erasure under way; ``offsets`` are those of its markers, by partition."""

    id: str
    user: str
    requested_at_ms: int
    offsets: Mapping[int, int]


def request(settings: Settings, user: str, progress: Progress | None = None) -> Request:
    """Put the markers. **Raises** `ConfigInvalid` when there is no state to erase from, or no worker can do it."""
    _refuse_added(settings)
    ensure_control(settings)
    embedded = _partitions_with_embedding(settings, user.encode(), progress)
    number, now_ms = uuid.uuid4().hex, time.time_ns() // 1_000_000
    source_id = topic_id(settings, settings.topics.events) or ""
    markers = {
        partition: Marker(number, user, end, partition in embedded, now_ms, source_id)
        for partition, end in end_offsets(settings, settings.topics.events).items()
    }
    with (
        broker_errors(settings.kafka),
        closing(KafkaProducer(**client_arguments(settings.kafka), acks="all")) as producer,
    ):
        topic = settings.control_topic
        sent = {
            partition: producer.send(topic, encode(marker), number.encode(), partition=partition)
            for partition, marker in markers.items()
        }
        offsets = {partition: each.get(settings.kafka.request_timeout_s).offset for partition, each in sent.items()}
    return Request(number, user, now_ms, offsets)


def _refuse_added(settings: Settings) -> None:
    topics = (settings.topics.events, settings.changelog_topic)
    n_events, n_state = (n_partitions(settings, topic) for topic in topics)
    if n_state and n_events != n_state:
        raise ConfigInvalid(
            f"partitions were added to the events topic, no worker can run: topic={topics[0]} partitions={n_events} "
            f"state={n_state}; move the state with `lurm repartition`, then ask the new application"
        )


def wait_for_answers(
    settings: Settings, asked: Request, timeout_s: float, progress: Progress | None = None
) -> dict[int, Answer]:
    """The answer of every partition. **Raises** `LurmError` with those that did not answer in time."""
    answers = _said(settings, asked, Answer, timeout_s, progress)
    if missing := sorted(set(asked.offsets) - set(answers)):
        raise LurmError(
            f"the erasure is not finished: partitions={missing} waited_s={timeout_s:g}; it will be when a worker owns "
            "them, which `lurm erase` run again can tell"
        )
    return answers


def wait_for_checks(settings: Settings, asked: Request, timeout_s: float = _CHECK_S) -> dict[int, Checked]:
    """What the owners found when they read their stores again; one that ended before it could say is missing."""
    return _said(settings, asked, Checked, timeout_s)


def _said(
    settings: Settings, asked: Request, kind: type[T], timeout_s: float, progress: Progress | None = None
) -> dict[int, T]:
    """What every partition says of the erasure, or those that do in time."""
    places = {TopicPartition(settings.control_topic, number): offset for number, offset in asked.offsets.items()}
    found: dict[int, T] = {}
    deadline = time.monotonic() + timeout_s
    with broker_errors(settings.kafka), closing(KafkaConsumer(**consumer_arguments(settings.kafka))) as consumer:
        consumer.assign(list(places))
        for partition, offset in places.items():
            consumer.seek(partition, offset)
        while len(found) < len(places) and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    said = decode(record.value)
                    if isinstance(said, kind) and said.id == asked.id:
                        found[record.partition] = said
            if progress is not None:
                progress(len(found), len(places))
    return found


def _partitions_with_embedding(settings: Settings, user: bytes, progress: Progress | None) -> set[int]:
    """Where the newest embedding of the user is no tombstone: also one whose rows are lost must go."""
    shown: dict[int, bool] = {}
    for batch in read_topic(settings, settings.topics.embeddings, progress):
        shown.update({record.partition: record.value is not None for record in batch if record.key == user})
    return {partition for partition, is_shown in shown.items() if is_shown}
