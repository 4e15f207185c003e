"""The receipt of an erasure: what the owners removed, and what the topics, read again, still hold and until when.

Kafka deletes nothing at once. A tombstone makes older rows and embeddings void for every reader; they leave the disks
with compaction, and events, dead letters and the markers themselves with their topic's retention.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from state.errors import UNREADABLE
from state.rows import decode_header, is_row_key, seq_of, user_of
from state.store import BEHIND_S_MAX
from stream.kafka.topics import configs
from stream.operations.erasure_request import Request
from stream.operations.replay import Progress, read_topic
from stream.records.dead_letters import PREFIX
from stream.records.embedding_record import Embedding, Foreign
from stream.records.erasure import Answer, Checked, Marker, decode
from stream.settings import Settings

FORMAT = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Removed(Struct, frozen=True):
    """Counts of what the stores held."""

    rows: int
    marks: int
    caches: int


class PartitionReceipt(Struct, frozen=True):
    """What one partition did; offsets are null where nothing had to be written."""

    partition: int
    removed: Removed
    erased_below: int
    applied_below: int
    first_row_tombstone: int | None
    last_row_tombstone: int | None
    embedding_tombstone: int | None
    erased_at: str


class Earlier(Struct, frozen=True):
    """A former erasure of the same user."""

    id: str
    requested_at: str | None
    partitions: list[PartitionReceipt]


class DeadLetter(Struct, frozen=True):
    """A rejected event of the user, which nobody can delete."""

    partition: int
    offset: int
    reason: str | None
    expires_at: str | None


class Events(Struct, frozen=True):
    """The erased events that one partition of the events topic still holds."""

    partition: int
    records: int
    first_offset: int
    last_offset: int
    expires_at: str | None


class Superseded(Struct, frozen=True):
    """Old records of a compacted topic that no reader takes for news any more, but disks still hold."""

    topic: str
    records: int
    compacted_from: str | None
    note: str


class Control(Struct, frozen=True):
    """The markers, which name the user."""

    topic: str
    markers: int
    expires_at: str | None


class Copy(Struct, frozen=True):
    """A copy that no command can see from here, and when the user goes from it."""

    where: str
    gone: str


# Whether there are any is known only where they are.
COPIES = (
    Copy(
        "state folders of workers that do not own the user's partition: standbys, workers that are down, owners before",
        "when such a worker reads the changelog's tombstones, a standby at once, or deletes the folder, "
        f"{BEHIND_S_MAX // 86_400} days behind: at its start, at its next assignment or once a day",
    ),
    Copy(
        "snapshots by `lurm snapshot`, and other backups of state folders",
        "when you delete them; a restored one loses the user before its worker is ready, and one older than "
        f"{BEHIND_S_MAX // 86_400} days is refused",
    ),
    Copy(
        "the topics of an application that `lurm repartition` moved from",
        "when you delete them",
    ),
)


class Left(Struct, frozen=True):
    """What is not deleted but expires; ``events`` is null when the events topic was not read."""

    dead_letters: list[DeadLetter]
    events: list[Events] | None
    rows: Superseded
    embeddings: Superseded
    control: Control
    copies: tuple[Copy, ...] = COPIES


class Verified(Struct, frozen=True):
    """What is found of the life that was erased: nothing, if ``ok``; ``new_life``: events since.

    ``rows`` and ``embeddings`` by a reader of the topics, ``stores`` by the owners who read these again: null when one
    of them ended before it could say.
    """

    ok: bool
    rows: int
    embeddings: int
    new_life: bool
    stores: Removed | None


class Receipt(Struct, frozen=True):
    """All of it. Times are UTC; a record expires at the earliest then, with the whole segment that it stands in."""

    id: str
    user_id: str
    requested_at: str
    finished_at: str
    removed: Removed
    partitions: list[PartitionReceipt]
    earlier: list[Earlier]
    left: Left
    verified: Verified
    format: int = FORMAT


def make_receipt(
    settings: Settings,
    asked: Request,
    said: tuple[Mapping[int, Answer], Mapping[int, Checked]],
    progress: Progress,
    *,
    with_events: bool,
) -> Receipt:
    """Read everything again, and say what was done and what is left; ``said`` by the owners."""
    user, answers = asked.user.encode(), said[0]

    def records(topic: str, is_users: Callable[[Any], bool]) -> list[Any]:
        return [record for batch in read_topic(settings, topic, progress) for record in batch if is_users(record)]

    rows = records(settings.changelog_topic, lambda record: _is_row_of(user, record.key))
    embeddings = records(settings.topics.embeddings, lambda record: record.key == user)
    letters = records(settings.topics.dead_letters, lambda record: user == record.key or user == _user_in(record))
    control = [record for batch in read_topic(settings, settings.control_topic, progress) for record in batch]
    ends = {number: answer.erased_below for number, answer in answers.items()}
    events = None
    if with_events:
        events = records(
            settings.topics.events,
            lambda record: record.key == user and record.offset < ends.get(record.partition, 0),
        )
    partitions = [_partition(number, answers[number], rows) for number in sorted(answers)]
    return Receipt(
        id=asked.id,
        user_id=asked.user,
        requested_at=_utc(asked.requested_at_ms),
        finished_at=_utc(max(answer.erased_at_ms for answer in answers.values())),
        removed=_sum(answers.values()),
        partitions=partitions,
        earlier=_earlier(asked, control, rows),
        left=_left(settings, asked, (rows, embeddings, letters, events, control)),
        verified=_verify(said, rows, embeddings),
    )


def _sum(found: Collection[Answer] | Collection[Checked]) -> Removed:
    return Removed(*(sum(getattr(each, name) for each in found) for name in Removed.__struct_fields__))


def _is_row_of(user: bytes, key: bytes) -> bool:
    return is_row_key(key) and user_of(key) == user


class _Event(Struct):
    user_id: str


_decode_event = msgspec.json.Decoder(_Event).decode


def _user_in(record: Any) -> bytes | None:
    """Whom a dead letter is about, if that can be read: its key need not be the user."""
    try:
        return _decode_event(record.value or b"").user_id.encode()
    except (*UNREADABLE, UnicodeEncodeError):
        return None


def _partition(number: int, answer: Answer, rows: Iterable[Any]) -> PartitionReceipt:
    tombstones = [
        record.offset
        for record in rows
        if record.partition == number and record.value is None and record.offset > answer.changelog_after
    ][: answer.rows]
    return PartitionReceipt(
        partition=number,
        removed=Removed(answer.rows, answer.marks, answer.caches),
        erased_below=answer.erased_below,
        applied_below=answer.applied_below,
        first_row_tombstone=tombstones[0] if tombstones else None,
        last_row_tombstone=tombstones[-1] if tombstones else None,
        embedding_tombstone=answer.embedding_offset,
        erased_at=_utc(answer.erased_at_ms),
    )


def _earlier(asked: Request, control: Iterable[Any], rows: Iterable[Any]) -> list[Earlier]:
    """Former erasures of the user, in order of time; one that a worker finished too late for its command, too."""
    requested_at_ms: dict[str, int] = {}
    answers: dict[str, dict[int, Answer]] = defaultdict(dict)
    for record in control:
        said = decode(record.value)
        if isinstance(said, Marker) and said.user == asked.user and said.id != asked.id:
            requested_at_ms[said.id] = said.requested_at_ms
        elif isinstance(said, Answer):
            answers[said.id][record.partition] = said
    return [
        Earlier(number, _utc(ms), [_partition(at, answer, rows) for at, answer in sorted(answers[number].items())])
        for number, ms in sorted(requested_at_ms.items(), key=lambda item: item[1])
    ]


def _left(settings: Settings, asked: Request, found: tuple[Any, ...]) -> Left:
    rows, embeddings, letters, events, control = found
    topics = settings.topics
    retention_ms = {name: _retention_ms(settings, name) for name in (topics.dead_letters, topics.events)}
    return Left(
        dead_letters=[
            DeadLetter(
                each.partition,
                each.offset,
                dict(each.headers).get(PREFIX + "reason", b"").decode() or None,
                _expires_at(each.timestamp, retention_ms[topics.dead_letters]),
            )
            for each in letters
        ],
        events=None if events is None else _events(events, retention_ms[topics.events]),
        rows=_superseded(settings, settings.changelog_topic, rows),
        embeddings=_superseded(settings, topics.embeddings, embeddings),
        control=_control(settings, asked, control),
    )


def _events(records: Iterable[Any], retention_ms: int) -> list[Events]:
    by_partition: dict[int, list[Any]] = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record)
    return [
        Events(
            partition=number,
            records=len(own),
            first_offset=own[0].offset,
            last_offset=own[-1].offset,
            expires_at=_expires_at(max(record.timestamp for record in own), retention_ms),
        )
        for number, own in sorted(by_partition.items())
    ]


def _superseded(settings: Settings, topic: str, records: Iterable[Any]) -> Superseded:
    """Values of the user that stand before a tombstone of the same key."""
    waiting: dict[tuple[int, bytes], int] = defaultdict(int)
    n_void, newest_ms = 0, None
    for record in records:
        place = (record.partition, record.key)
        if record.value is not None:
            waiting[place] += 1
        elif waiting[place]:
            n_void += waiting.pop(place)
            newest_ms = record.timestamp
    lag_ms = int(configs(settings, topic).get("max.compaction.lag.ms", 2**63 - 1))
    by = None if newest_ms is None else _expires_at(newest_ms, lag_ms)
    bounded = "the broker compacts them at the latest from then on, once something more is written to the partition"
    unbounded = f"the broker compacts them when it sees fit: set max.compaction.lag.ms on {topic} to bound it"
    return Superseded(topic, n_void, by, "" if not n_void else bounded if by else unbounded)


def _control(settings: Settings, asked: Request, control: Iterable[Any]) -> Control:
    retention_ms = _retention_ms(settings, settings.control_topic)
    own = [
        record.timestamp
        for record in control
        if isinstance(said := decode(record.value), Marker) and said.user == asked.user
    ]
    return Control(settings.control_topic, len(own), _expires_at(max(own), retention_ms) if own else None)


def _verify(
    said: tuple[Mapping[int, Answer], Mapping[int, Checked]], rows: Iterable[Any], embeddings: Iterable[Any]
) -> Verified:
    """What is newest per key in each topic, measured against the end of the erased life."""
    answers, checks = said
    decode_embedding = Foreign().decode
    stores = _sum(checks.values()) if checks.keys() == answers.keys() else None
    limits = {number: seq_of(answer.epoch, answer.erased_below) for number, answer in answers.items()}
    newest_rows = {(record.partition, record.key): record.value for record in rows}
    newest_embeddings = {
        record.partition: change for record in embeddings if (change := decode_embedding(record)) is not None
    }
    row_seqs = [
        (number, int(decode_header([value])[0][0])) for (number, _), value in newest_rows.items() if value is not None
    ]
    embedding_seqs = [(number, each.seq) for number, each in newest_embeddings.items() if isinstance(each, Embedding)]
    n_rows, n_embeddings = (
        sum(seq < limits.get(number, 2**63) for number, seq in found) for found in (row_seqs, embedding_seqs)
    )
    n_old = n_rows + n_embeddings
    ok = n_old == 0 and not any(each.rows or each.marks or each.caches for each in checks.values())
    return Verified(ok, n_rows, n_embeddings, len(row_seqs) + len(embedding_seqs) > n_old, stores)


def _retention_ms(settings: Settings, topic: str) -> int:
    return int(configs(settings, topic).get("retention.ms", -1))


def _expires_at(timestamp_ms: int, after_ms: int) -> str | None:
    """When a record is due to go; null for never."""
    if after_ms < 0:
        return None
    try:
        return _utc(timestamp_ms + after_ms)
    except OverflowError:
        return None


def _utc(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
