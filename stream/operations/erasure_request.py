"""Asking for erasures: a marker per user into every control partition, then waiting for the owners' answers.

However many users, the embeddings are read once, and the control topic from the first marker on.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream.errors import ConfigInvalid
from stream.kafka.connection import broker_errors, client_arguments, consumer_arguments
from stream.kafka.topics import end_offsets, ensure_control, n_partitions, topic_id
from stream.operations.replay import Progress, read_topic
from stream.records.erasure import Answer, Checked, Marker, decode, encode
from stream.settings import Settings

_POLL_MS = 200
# A check follows its answer at once; one that does not come was never sent.
_CHECK_S = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Erasures under way: whom each is of, by its id, and in each partition where the markers begin."""

    users: Mapping[str, str]
    requested_at_ms: int
    first_offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Said:
    """What the owners of all partitions said of each erasure, by its id and partition."""

    answers: Mapping[str, dict[int, Answer]] = field(default_factory=lambda: defaultdict(dict))
    checks: Mapping[str, dict[int, Checked]] = field(default_factory=lambda: defaultdict(dict))

    def unanswered(self, asked: Asked) -> dict[str, list[int]]:
        """The erasures that are not finished, each with the partitions that did not answer."""
        missing = {number: sorted(asked.first_offsets.keys() - self._of(number)) for number in asked.users}
        return {number: partitions for number, partitions in missing.items() if partitions}

    def _of(self, number: str) -> Collection[int]:
        return self.answers[number].keys() if number in self.answers else ()


def request(settings: Settings, users: Sequence[str], progress: Progress | None = None) -> Asked:
    """Put the markers. **Raises** `ConfigInvalid` when there is no state to erase from, or no worker can do it."""
    _refuse_added(settings)
    ensure_control(settings)
    embedded = _partitions_with_embedding(settings, {user.encode() for user in users}, progress)
    now_ms = time.time_ns() // 1_000_000
    source_id = topic_id(settings, settings.topics.events) or ""
    ends = end_offsets(settings, settings.topics.events)
    asked = {uuid.uuid4().hex: user for user in dict.fromkeys(users)}
    markers = (
        (partition, Marker(number, user, end, partition in embedded.get(user.encode(), ()), now_ms, source_id))
        for number, user in asked.items()
        for partition, end in ends.items()
    )
    before = end_offsets(settings, settings.control_topic)
    _send(settings, markers)
    return Asked(asked, now_ms, {partition: before[partition] for partition in ends})


def _send(settings: Settings, markers: Iterator[tuple[int, Marker]]) -> None:
    """Write them, each into its partition."""
    arguments = client_arguments(settings.kafka) | {"linger_ms": 5}
    failed: list[Exception] = []
    with broker_errors(settings.kafka):
        with closing(KafkaProducer(**arguments, acks="all")) as producer:
            for partition, marker in markers:
                key, value = marker.id.encode(), encode(marker)
                producer.send(settings.control_topic, value, key, partition=partition).add_errback(failed.append)
            producer.flush()
        if failed:
            raise failed[0]


def _refuse_added(settings: Settings) -> None:
    topics = (settings.topics.events, settings.changelog_topic)
    n_events, n_state = (n_partitions(settings, topic) for topic in topics)
    if n_state and n_events != n_state:
        raise ConfigInvalid(
            f"partitions were added to the events topic, no worker can run: topic={topics[0]} partitions={n_events} "
            f"state={n_state}; move the state with `lurm repartition`, then ask the new application"
        )


def wait_for_answers(settings: Settings, asked: Asked, timeout_s: float, progress: Progress | None = None) -> Said:
    """What the owners of all partitions say, until they have said all or nothing more for ``timeout_s``.

    A check that does not follow its answer for some seconds is given up: its owner ended before it could say.
    """
    said, total = Said(), len(asked.users) * len(asked.first_offsets)
    n_answers = n_checks = 0
    places = {TopicPartition(settings.control_topic, number): at for number, at in asked.first_offsets.items()}
    with broker_errors(settings.kafka), closing(KafkaConsumer(**consumer_arguments(settings.kafka))) as consumer:
        consumer.assign(list(places))
        for partition, offset in places.items():
            consumer.seek(partition, offset)
        deadline = time.monotonic() + timeout_s
        while (n_answers < total or n_checks < total) and time.monotonic() < deadline:
            before = n_answers + n_checks
            for records in consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    _note(said, asked, record)
            n_answers = sum(map(len, said.answers.values()))
            n_checks = sum(map(len, said.checks.values()))
            if n_answers + n_checks > before:
                deadline = time.monotonic() + (timeout_s if n_answers < total else min(_CHECK_S, timeout_s))
            if progress is not None:
                progress(n_answers, total)
    return said


def _note(said: Said, asked: Asked, record: object) -> None:
    found = decode(record.value)  # type: ignore[attr-defined]
    number = record.partition  # type: ignore[attr-defined]
    if isinstance(found, Answer) and found.id in asked.users:
        said.answers[found.id][number] = found
    elif isinstance(found, Checked) and found.id in asked.users:
        said.checks[found.id][number] = found


def _partitions_with_embedding(
    settings: Settings, users: Collection[bytes], progress: Progress | None
) -> dict[bytes, set[int]]:
    """Where the newest embedding of each user is no tombstone: also one whose rows are lost must go."""
    shown: dict[bytes, set[int]] = defaultdict(set)
    for batch in read_topic(settings, settings.topics.embeddings, progress):
        for record in batch:
            if record.key in users:
                change = shown[record.key].discard if record.value is None else shown[record.key].add
                change(record.partition)
    return shown
