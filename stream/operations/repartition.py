"""Move an application's state to another application whose topics have another number of partitions.

Nothing of the old application is changed. A user's rows go where the new topic's partitioner puts the user's events,
with the ``seq`` they had; the new partition records begin the next epoch, so every later ``seq`` is higher. Until the
rows were read again and found equal, the new records forbid every worker to start; writing the same rows twice changes
nothing, so an interrupted run is repeated. Rows stand in temporary databases, so a state may be larger than memory.

Where partitions were added to the old events topic no worker can count what waits there: a user's events and rows are
no longer in one partition. Those events are sent on to the new topic, where each goes to its user's rows; and rows that
were counted from such events before the workers noticed are added to their user's others, as are those of users whose
producers used several partitioners.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import msgspec
from kafka import KafkaProducer

from state.record import Ledger, PartitionRecord, encode_record
from state.rows import RECORD_KEY, epoch_after, seq_of, user_of
from stream.errors import BrokerUnavailable, ConfigInvalid, LurmError
from stream.failpoints import passing
from stream.kafka.connection import admin, broker_errors, client_arguments
from stream.kafka.source import Position, n_lost, read_source
from stream.kafka.topics import check, create_missing, n_partitions, offset_ranges
from stream.operations.past_erasures import erased_users, waiting_erasures
from stream.operations.replay import Progress, read_topic
from stream.operations.state_copy import Copy, copied, gather
from stream.records.partitioners import Partitioner, partitions_of
from stream.settings import Settings, validated

# In place of the interest space: a worker refuses to count on top of it.
UNFINISHED = "(unfinished lurm repartition)"
_PROGRESS_EVERY = 10_000
_PAUSE_S = 0.2
# An event that came compressed may be larger than what a topic takes of others.
_AS_THEY_CAME: Mapping[str, Any] = {"compression_type": "gzip", "max_request_size": 2**31 - 1}


@dataclass(frozen=True, slots=True)
class Placed:
    """What must stand in the new changelog."""

    users: int
    rows: Counter[int]


@dataclass(frozen=True, slots=True)
class Moved:
    """What stands in the new changelog, read again and equal to the old."""

    users: int
    rows: int
    ledger: Ledger
    epoch: int


@contextmanager
def read_old(
    settings: Settings, progress: Progress | None = None, partitioner: Partitioner | None = None
) -> Iterator[Copy]:
    """The whole state of an application at rest, while the block runs, every user's rows added up.

    ``partitioner`` is that of the new topic's producers; None: the old one's. **Raises** `LurmError` while workers run,
    events that they can count or erasures wait, or rows lie as if the old one's were another, `SourceLost` when the
    events topic is not the one that was counted, or retention deleted what waited and ``kafka.data_loss`` does not
    accept it.
    """
    placing = partitioner or _known_partitioner(settings)
    _refuse_members(settings)
    offsets = offset_ranges(settings, settings.topics.events)
    if not offsets:
        raise ConfigInvalid(f"the events topic does not exist: topic={settings.topics.events}")
    with copied(settings, n_partitions(settings, settings.changelog_topic), progress, placing) as state:
        if not state.records:
            raise LurmError(f"there is no state to move: changelog={settings.changelog_topic}")
        applied, were_added = _applied(settings, state), len(offsets) != state.n_partitions
        _refuse_loss(settings, applied, offsets)
        waiting = sum(max(0, end - applied.get(number, first)) for number, (first, end) in offsets.items())
        if waiting and not were_added:
            raise LurmError(
                f"events wait in the old topic, and would be lost: events={waiting} topic={settings.topics.events}; "
                "stop the producers and let the workers finish"
            )
        unerased = waiting_erasures(settings)
        if unerased and not were_added:
            raise LurmError(f"erasures wait: markers={unerased.total()}; let the workers finish")
        strays = gather(state, len(offsets))
        if partitioner is None:
            strays.refuse(state)
        erased = erased_users(settings, state.records, offsets)
        yield replace(state, unerased=sorted(unerased), erased=erased, n_merged=strays.n_merged)


def write_new(new: Settings, state: Copy, progress: Progress | None = None) -> Placed:
    """Make the new topics, forbid workers, and write the rows; how many stand where.

    **Raises** `ConfigInvalid` when the new topics are wrong or hold a state of their own.
    """
    create_missing(new)
    if problems := check(new):
        raise ConfigInvalid(str(problems[0]))
    _refuse_members(new)
    _refuse_finished(new)
    _write_records(new, _records(new, state, UNFINISHED))
    n_users, rows = 0, Counter[int]()
    with broker_errors(new.kafka), closing(_producer(new)) as producer:
        for n_users, (number, own) in enumerate(state.users(new.topics.partitions), 1):
            for key, value in own:
                producer.send(new.changelog_topic, value, key, partition=number)
                passing("repartition.sent")
            rows[number] += len(own)
            if progress is not None and n_users % _PROGRESS_EVERY == 0:
                progress(rows.total(), max(rows.total(), state.rows.n_about))
        producer.flush()
    passing("repartition.written")
    return Placed(n_users, rows)


def send_on(settings: Settings, new: Settings, state: Copy, progress: Progress | None = None) -> int:
    """Send the events that wait in the old topic to the new one; how many there were.

    **Raises** `LurmError` when the new topic holds events already, which may be these, and when one was not taken.
    """
    topic, n_before, n = new.topics.events, _n_records(new, new.topics.events), 0
    with broker_errors(new.kafka), closing(_producer(new, **_AS_THEY_CAME)) as producer:
        for batch in read_topic(settings, settings.topics.events, progress, _applied(settings, state)):
            waiting = state.erased[batch[0].partition].still_counted(batch) if batch else batch
            if waiting and n_before:
                raise LurmError(
                    f"events wait in the old topic, and the new one holds some already: topic={topic} "
                    f"events={n_before}; delete that topic and run this again"
                )
            for each, number in zip(waiting, _places(waiting, new, state), strict=True):
                producer.send(topic, each.value, each.key, each.headers, partition=number, timestamp_ms=each.timestamp)
            n += len(waiting)
        producer.flush()
    passing("repartition.sent_on")
    n_sent = _n_records(new, topic) - n_before
    if n_sent != n:
        raise LurmError(
            f"not all waiting events are in the new topic: topic={topic} waiting={n} found={n_sent}; delete that topic "
            "and run this again"
        )
    return n


def verify_and_allow(new: Settings, state: Copy, placed: Placed, progress: Progress | None = None) -> Moved:
    """Read the new changelog again, compare it row by row, and only then let workers start.

    **Raises** `LurmError` for any difference; then the new changelog must be deleted.
    """
    with copied(new, new.topics.partitions, progress) as found:
        for number in range(new.topics.partitions):
            _refuse_difference(new, number, state, placed.rows[number], found)
    records = _records(new, state)
    _write_records(new, records)
    ledger = sum((record.ledger for record in records.values()), Ledger())
    return Moved(placed.users, placed.rows.total(), ledger, new.topics.epoch)


def _known_partitioner(settings: Settings) -> Partitioner:
    if settings.topics.partitioner == "any":
        raise ConfigInvalid(
            "where the producers of the new events topic place users is not known: topics.partitioner=any; say it with "
            "--partitioner"
        )
    return settings.topics.partitioner


def new_settings(settings: Settings, app_id: str, **topics: object) -> Settings:
    """The settings of the new application, its epoch still the old one. **Raises** `ConfigInvalid`."""
    if app_id == settings.app.id:
        raise ConfigInvalid(f"the new application must have another id: LURM_APP__ID={app_id}")
    if topics["events"] == settings.topics.events:
        raise ConfigInvalid(f"the new application needs another events topic: LURM_TOPICS__EVENTS={topics['events']}")
    new = settings.model_dump()
    new["app"]["id"] = app_id
    new["topics"] |= topics
    return validated(new)


def in_next_epoch(new: Settings, state: Copy) -> Settings:
    """The new settings in the first epoch in which every ``seq`` is higher than all of this state."""
    epoch = max(epoch_after(record.epoch, record.next_offset) for record in state.records.values())
    return new.model_copy(update={"topics": new.topics.model_copy(update={"epoch": epoch})})


def _applied(settings: Settings, state: Copy) -> dict[int, int]:
    """The first offset of the old events topic that was not counted, by partition."""
    source = read_source(settings)
    return {number: source.continued(record, number).next_offset for number, record in state.records.items()}


def _places(events: Sequence[Any], new: Settings, state: Copy) -> list[int]:
    """The new partitions of these events; one without a key, which no worker takes, goes anywhere."""
    keys = [each.key or b"" for each in events]
    places: list[int] = partitions_of(keys, new.topics.partitions, state.partitioner).tolist()
    return places


def _n_records(settings: Settings, topic: str) -> int:
    return sum(end - first for first, end in offset_ranges(settings, topic).values())


def _records(new: Settings, state: Copy, interest_space_id: str = "") -> dict[int, PartitionRecord]:
    """Nothing read yet of the new topic, no model's embeddings published, and the past of all in partition 0's ledger.

    A row does not say which event of which partition it counts, so only the sum over all partitions goes on.
    """
    old = next(iter(state.records.values()))
    empty = PartitionRecord(
        interest_space_id or old.interest_space_id,
        old.scales,
        epoch=new.topics.epoch,
        # The walk publishes everybody; rows that were marked while they are replayed would be published once more.
        published=seq_of(new.topics.epoch, 0),
        source_id=read_source(new).topic_id,
    )
    with_past = msgspec.structs.replace(empty, ledger=state.ledger)
    return {number: empty if number else with_past for number in range(new.topics.partitions)}


def _write_records(new: Settings, records: Mapping[int, PartitionRecord]) -> None:
    """All in one transaction, which also fences an earlier run that still writes."""
    with broker_errors(new.kafka), closing(_producer(new, f"{new.app.id}-repartition")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for number, record in records.items():
            producer.send(new.changelog_topic, encode_record(record), RECORD_KEY, partition=number)
        producer.commit_transaction()
    # A reader sees a transaction a little after it was committed; the next holder of the id waits for that.
    with broker_errors(new.kafka), closing(_producer(new, f"{new.app.id}-repartition")) as producer:
        producer.init_transactions()


def _producer(settings: Settings, transactional_id: str | None = None, **more: Any) -> KafkaProducer:
    arguments = client_arguments(settings.kafka) | more
    return KafkaProducer(**arguments, acks="all", linger_ms=20, transactional_id=transactional_id)


def _refuse_members(settings: Settings) -> None:
    group = _group(settings)
    # A group that nobody ever joined is dead; one that its coordinator does not know yet has no state.
    if group["group_state"] not in {"Empty", "Dead"}:
        raise LurmError(
            f"workers are in the group: members={len(group['members'])} state={group['group_state'] or 'unknown'} "
            f"group={settings.app.id}; stop them, and wait kafka.session_timeout_s="
            f"{settings.kafka.session_timeout_s:g} for those that were killed"
        )


def _group(settings: Settings) -> Mapping[str, Any]:
    """Asked again until the deadline: whoever asks a new cluster first for a group's coordinator is told to wait."""
    deadline = time.monotonic() + settings.kafka.start_deadline_s
    while True:
        try:
            with admin(settings) as client:
                group: Mapping[str, Any] = client.describe_groups([settings.app.id])[settings.app.id]
                # A coordinator that is just being made says nothing of the group.
                if group["group_state"] or time.monotonic() > deadline:
                    return group
        except BrokerUnavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)


def _refuse_loss(settings: Settings, applied: Mapping[int, int], offsets: Mapping[int, tuple[int, int]]) -> None:
    topics, accept_loss = settings.topics, settings.kafka.data_loss == "accept"
    for number, next_offset in applied.items():
        at = Position(topics.events, number, next_offset, *offsets[number])
        n_lost(at, topics.epoch, accept_loss=accept_loss)


def _refuse_finished(new: Settings) -> None:
    with copied(new, new.topics.partitions) as found:
        finished = [record for record in found.records.values() if record.interest_space_id != UNFINISHED]
        unknown = not found.records and next(found.users(1), None) is not None
    if finished or unknown:
        raise ConfigInvalid(
            f"the new changelog holds a state already: topic={new.changelog_topic}; choose another --to-app, or delete "
            "that topic"
        )


def _refuse_difference(new: Settings, number: int, state: Copy, n_wanted: int, found: Copy) -> None:
    """Every row found must be the old one of a user who belongs here; then as many as wanted are all of them."""
    n_found, n_known, n_equal = 0, 0, 0
    for rows in found.rows.rows(number):
        wanted = _wanted(new, number, state, [key for key, _ in rows])
        n_found += len(rows)
        n_known += len(rows) - wanted.count(None)
        n_equal += sum(value == old for (_, value), old in zip(rows, wanted, strict=True))
    n_different = n_found + n_wanted - n_known - n_equal
    if n_different:
        raise LurmError(
            f"the new changelog differs from the old state: rows={n_different} topic={new.changelog_topic} "
            f"partition={number}; delete that topic and run this again"
        )


def _wanted(new: Settings, number: int, state: Copy, keys: Sequence[bytes]) -> list[bytes | None]:
    """The old values of these keys in order, None for a key that does not belong into this new partition."""
    wanted: list[bytes | None] = []
    by_user = {user: list(group) for user, group in groupby(keys, user_of)}
    places = partitions_of(list(by_user), new.topics.partitions, state.partitioner).tolist()
    for own, place, home in zip(by_user.values(), places, state.homes(list(by_user)), strict=True):
        wanted += state.rows.get(home, own) if place == number else [None] * len(own)
    return wanted
