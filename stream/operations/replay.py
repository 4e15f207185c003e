"""Read topics from their beginning to their committed end as of now: what the tools know of state and embeddings.

Reading ends by position, not by records: transactions leave control records behind, and compaction leaves holes, so
the last offset of a partition may hold nothing to return.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from state.history import Rows
from state.periods import Scale, parse_scales
from state.record import Ledger, PartitionRecord, decode_record
from state.rows import RECORD_KEY, decode_rows, is_row_key, user_of
from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.kafka.connection import broker_errors, consumer_arguments, wait_for_partitions
from stream.kafka.topics import n_partitions
from stream.records.embedding_record import Embedding, Foreign
from stream.settings import Kafka, Settings

Progress = Callable[[int, int], None]
# Whose records are kept, by the id; None keeps everybody's.
Wanted = Callable[[bytes], bool] | None
_POLL_MS = 100


@dataclass(frozen=True, slots=True)
class State:
    """The newest committed state of an application, by partition: rows by key, and the partition records."""

    rows: Mapping[int, Mapping[bytes, bytes]]
    records: Mapping[int, PartitionRecord]

    @property
    def ledger(self) -> Ledger:
        """The sum over all partitions."""
        return sum((record.ledger for record in self.records.values()), Ledger())

    def users(self) -> list[bytes]:
        """Everybody with a row, in order."""
        return sorted({user_of(key) for rows in self.rows.values() for key in rows})

    def batches(self, users: Iterable[bytes], n_users: int) -> Iterator[tuple[list[bytes], Rows]]:
        """The rows of these users in order, at most ``n_users`` users at a time."""
        wanted = set(users)
        # Of a user in several partitions the same key stands in each.
        together = sorted(
            (row for rows in self.rows.values() for row in rows.items() if user_of(row[0]) in wanted), key=_key
        )
        by_user = [list(rows) for _, rows in groupby(together, lambda row: user_of(row[0]))]
        for start in range(0, len(by_user), n_users):
            rows = list(chain.from_iterable(by_user[start : start + n_users]))
            yield decode_rows([key for key, _ in rows], [value for _, value in rows])

    def of_user(self, user: bytes) -> tuple[list[int], Rows]:
        """The partitions with rows of one user, and these rows; none when there is no such user."""
        own = {number: [row for row in rows.items() if user_of(row[0]) == user] for number, rows in self.rows.items()}
        found = sorted(chain.from_iterable(own.values()), key=_key)
        partitions = [number for number, rows in own.items() if rows]
        return partitions, decode_rows([key for key, _ in found], [value for _, value in found])[1]

    def in_several(self) -> list[bytes]:
        """The users who have rows in several partitions, in order: their producers used different partitioners."""
        users = chain.from_iterable({user_of(key) for key in rows} for rows in self.rows.values())
        return sorted(user for user, n in Counter(users).items() if n > 1)


def read_topic(
    settings: Settings, topic: str, progress: Progress | None = None, first: Mapping[int, int] | None = None
) -> Iterator[list[Any]]:
    """All committed records of a topic up to its ends now, in batches, one partition after the other.

    ``first`` has the offsets to begin at, by partition, where that is not the topic's first; ``progress`` is told the
    offsets done and their total. **Raises** `ConfigInvalid` when there is no such topic, `BrokerUnavailable` when
    nothing moves for ``kafka.start_deadline_s``.
    """
    numbers, kafka = range(n_partitions(settings, topic, "Read")), settings.kafka
    with broker_errors(kafka, "Read"), closing(KafkaConsumer(**consumer_arguments(kafka))) as consumer:
        partitions = [TopicPartition(topic, number) for number in numbers]
        if not partitions:
            raise ConfigInvalid(
                f"no such topic: topic={topic}; has a worker run with these settings? `lurm topics check`"
            )
        wait_for_partitions(consumer, partitions, kafka)
        begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        starts = {each: max(begins[each], (first or {}).get(each.partition, 0)) for each in partitions}
        done, total = 0, sum(ends.values()) - sum(starts.values())
        for each in partitions:
            consumer.assign([each])
            consumer.seek(each, starts[each])
            for position, records in _read_to(consumer, each, ends[each], settings.kafka):
                yield records
                if progress is not None:
                    progress(done + min(position, ends[each]) - starts[each], total)
            done += ends[each] - starts[each]


def _read_to(consumer: KafkaConsumer, one: TopicPartition, end: int, kafka: Kafka) -> Iterator[tuple[int, list[Any]]]:
    """Positions and the records before each, until ``end`` is reached."""
    position, moved_at_s = consumer.position(one), time.monotonic()
    while position < end:
        records = [record for record in consumer.poll(timeout_ms=_POLL_MS).get(one, ()) if record.offset < end]
        before, position = position, consumer.position(one)
        if position != before:
            moved_at_s = time.monotonic()
        elif time.monotonic() - moved_at_s > kafka.start_deadline_s:
            raise BrokerUnavailable(
                f"the broker stopped delivering: topic={one.topic} partition={one.partition} position={position} "
                f"end={end} brokers={kafka.brokers}"
            )
        yield position, records


def _key(row: tuple[bytes, bytes]) -> bytes:
    return row[0]


def only(user: str) -> Wanted:
    """Wants one user."""
    wanted = user.encode()
    return lambda each: each == wanted


def newest_state(settings: Settings, wanted: Wanted = None, progress: Progress | None = None) -> State:
    """The newest rows of those wanted, and all partition records; erased and rolled-up rows are gone."""
    rows: dict[int, dict[bytes, bytes]] = {}
    records: dict[int, PartitionRecord] = {}
    for batch in read_topic(settings, settings.changelog_topic, progress):
        for record in batch:
            key, value = record.key, record.value
            if not is_row_key(key):
                if key == RECORD_KEY and value is not None:
                    records[record.partition] = decode_record(value)
            elif wanted is not None and not wanted(user_of(key)):
                continue
            elif value is None:
                rows.get(record.partition, {}).pop(key, None)
            else:
                rows.setdefault(record.partition, {})[key] = value
    return State(
        {number: rows[number] for number in sorted(rows)}, {number: records[number] for number in sorted(records)}
    )


def newest_records(settings: Settings, progress: Progress | None = None) -> State:
    """The partition records alone, which fit in memory however many rows there are."""
    return newest_state(settings, lambda _: False, progress)


def newest_embeddings(
    settings: Settings, wanted: Wanted = None, progress: Progress | None = None
) -> dict[str, Embedding]:
    """The newest embedding of everybody who is wanted and was not erased."""
    newest: dict[str, Embedding] = {}
    foreign = Foreign()
    for batch in read_topic(settings, settings.topics.embeddings, progress):
        for record in batch:
            change = foreign.decode(record) if wanted is None or wanted(record.key or b"") else None
            if isinstance(change, Embedding):
                newest[change.user_id] = change
            elif change is not None:
                newest.pop(change.user_id, None)
    return {user: newest[user] for user in sorted(newest)}


def scales_of(settings: Settings, state: State) -> tuple[Scale, ...]:
    """The scales of the settings, else those that the state was written with.

    **Raises** `ConfigInvalid` when neither says, or when they differ.
    """
    written = {record.scales for record in state.records.values()}
    if len(written) > 1:
        raise ConfigInvalid(
            f"the partitions have different scales: {' and '.join(sorted(written))}; see `lurm inspect`"
        )
    names = next(iter(written), settings.state.scales)
    if settings.state.scales not in ("", names):
        raise ConfigInvalid(f"the state has other scales: state={names} LURM_STATE__SCALES={settings.state.scales}")
    if not names:
        raise ConfigInvalid("there is no state yet to tell its scales; run a worker, or set LURM_STATE__SCALES")
    return parse_scales(names)
