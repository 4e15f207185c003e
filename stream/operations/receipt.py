"""The receipt of an erasure: what the owners removed, and what the topics, read again, still hold and until when.

Kafka deletes nothing at once. A tombstone makes older rows and embeddings void for every reader; they leave the disks
with compaction, and events, dead letters and the markers themselves with their topic's retention.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from state.rows import seq_of
from state.store import BEHIND_S_MAX
from stream.kafka.topics import configs
from stream.operations.erasure_request import Asked, Said
from stream.operations.evidence import Evidence, Seen, gather
from stream.operations.replay import Progress
from stream.records.erasure import Answer, Checked
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


class Kept(Struct, frozen=True):
    """What stays for ever, so that nobody counts the erased events again: a hash, and where they end."""

    topic: str
    partitions: int
    note: str = "SHA-256 of the events topic's id and the user's, no id in plain"


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
        "other applications that have read the same events already",
        "when `lurm erase` asks each of them, with its LURM_APP__ID; one that begins later, or is built anew, skips "
        "what is erased here",
    ),
    Copy(
        "other topics and files with the same events: mirrors, backups, an events topic recreated from one",
        "when you delete the user there; whoever reads them counts the user again",
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
    erasures: Kept
    copies: tuple[Copy, ...] = COPIES


class Verified(Struct, frozen=True):
    """What is found of the life that was erased: nothing, if ``ok``; ``new_life``: events since.

    ``rows`` and ``embeddings`` by a reader of the topics, ``stores`` by the owners who read these again: null when one
    of them ended before it could say. ``outlives``: the erasures topic says of every partition what was erased, to
    whoever reads the events from the first one on.
    """

    ok: bool
    rows: int
    embeddings: int
    new_life: bool
    stores: Removed | None
    outlives: bool


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


@dataclass(frozen=True, slots=True)
class _Expiry:
    """When records of each topic go: after which time, or when compacted at the latest; negative: never."""

    topic: str
    retention_ms: int
    lag_ms: int


def make_receipts(
    settings: Settings, asked: Asked, said: Said, progress: Progress, *, with_events: bool
) -> Iterator[Receipt]:
    """Read everything again, and say what was done and what is left; nothing of erasures that are not finished."""
    evidence = gather(settings, asked, said, progress, with_events=with_events)
    expiry = {name: _expiry(settings, topic) for name, topic in _topics(settings).items()}
    unanswered = said.unanswered(asked)
    for number in asked.users:
        if number not in unanswered:
            yield _receipt(asked, number, said, evidence, expiry)


def _topics(settings: Settings) -> dict[str, str]:
    return {
        "rows": settings.changelog_topic,
        "embeddings": settings.topics.embeddings,
        "dead_letters": settings.topics.dead_letters,
        "events": settings.topics.events,
        "control": settings.control_topic,
        "erasures": settings.erasures_topic,
    }


def _expiry(settings: Settings, topic: str) -> _Expiry:
    found = configs(settings, topic)
    return _Expiry(topic, int(found.get("retention.ms", -1)), int(found.get("max.compaction.lag.ms", 2**63 - 1)))


def _receipt(asked: Asked, number: str, said: Said, evidence: Evidence, expiry: Mapping[str, _Expiry]) -> Receipt:
    answers, user = said.answers[number], asked.users[number].encode()
    rows = evidence.rows.get(user, [])
    return Receipt(
        id=number,
        user_id=asked.users[number],
        requested_at=_utc(asked.requested_at_ms),
        finished_at=_utc(max(answer.erased_at_ms for answer in answers.values())),
        removed=_sum(answers.values()),
        partitions=[_partition(at, answers[at], rows) for at in sorted(answers)],
        earlier=_earlier(number, user, evidence),
        left=_left(user, evidence, expiry),
        verified=_verify(user, answers, said.checks.get(number, {}), evidence),
    )


def _sum(found: Collection[Answer] | Collection[Checked]) -> Removed:
    return Removed(*(sum(getattr(each, name) for each in found) for name in Removed.__struct_fields__))


def _partition(number: int, answer: Answer, rows: Iterable[Seen]) -> PartitionReceipt:
    tombstones = [
        row.offset
        for row in rows
        if row.partition == number and row.is_tombstone and row.offset > answer.changelog_after
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


def _earlier(number: str, user: bytes, evidence: Evidence) -> list[Earlier]:
    """Former erasures of the user, in order of time; one that a worker finished too late for its command, too."""
    requested_at_ms = {each.id: each.requested_at_ms for _, each in evidence.markers.get(user, []) if each.id != number}
    rows, answers = evidence.rows.get(user, []), evidence.answers
    return [
        Earlier(former, _utc(ms), [_partition(at, answer, rows) for at, answer in sorted(answers[former].items())])
        for former, ms in sorted(requested_at_ms.items(), key=lambda item: item[1])
    ]


def _left(user: bytes, evidence: Evidence, expiry: Mapping[str, _Expiry]) -> Left:
    letters, events = evidence.letters.get(user, []), evidence.events
    return Left(
        dead_letters=[
            DeadLetter(
                each.partition,
                each.offset,
                each.reason,
                _expires_at(each.timestamp, expiry["dead_letters"].retention_ms),
            )
            for each in letters
        ],
        events=None if events is None else _events(events.get(user, []), expiry["events"].retention_ms),
        rows=_superseded(expiry["rows"], evidence.rows.get(user, [])),
        embeddings=_superseded(expiry["embeddings"], evidence.embeddings.get(user, [])),
        control=_control(expiry["control"], [at_ms for at_ms, _ in evidence.markers.get(user, [])]),
        erasures=Kept(expiry["erasures"].topic, sum(owner == user for owner, _ in evidence.kept)),
    )


def _events(records: Iterable[Seen], retention_ms: int) -> list[Events]:
    by_partition: dict[int, list[Seen]] = defaultdict(list)
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


def _superseded(expiry: _Expiry, records: Iterable[Seen]) -> Superseded:
    """Values of the user that stand before a tombstone of the same key."""
    waiting: dict[tuple[int, bytes], int] = defaultdict(int)
    n_void, newest_ms = 0, None
    for record in records:
        place = (record.partition, record.key)
        if not record.is_tombstone:
            waiting[place] += 1
        elif waiting[place]:
            n_void += waiting.pop(place)
            newest_ms = record.timestamp
    by = None if newest_ms is None else _expires_at(newest_ms, expiry.lag_ms)
    bounded = "the broker compacts them at the latest from then on, once something more is written to the partition"
    unbounded = f"the broker compacts them when it sees fit: set max.compaction.lag.ms on {expiry.topic} to bound it"
    return Superseded(expiry.topic, n_void, by, "" if not n_void else bounded if by else unbounded)


def _control(expiry: _Expiry, markers_ms: list[int]) -> Control:
    newest = _expires_at(max(markers_ms), expiry.retention_ms) if markers_ms else None
    return Control(expiry.topic, len(markers_ms), newest)


def _verify(user: bytes, answers: Mapping[int, Answer], checks: Mapping[int, Checked], evidence: Evidence) -> Verified:
    """What is newest per key in each topic, measured against the end of the erased life."""
    stores = _sum(checks.values()) if checks.keys() == answers.keys() else None
    limits = {number: seq_of(answer.epoch, answer.erased_below) for number, answer in answers.items()}
    newest_rows = {(row.partition, row.key): row for row in evidence.rows.get(user, [])}
    # A foreign record neither shows a user nor hides one.
    ours = (each for each in evidence.embeddings.get(user, []) if each.is_tombstone or each.seq is not None)
    newest_embeddings = {each.partition: each for each in ours}
    both = [
        [(each.partition, each.seq) for each in found if each.seq is not None]
        for found in (newest_rows.values(), newest_embeddings.values())
    ]
    n_rows, n_embeddings = (sum(seq < limits.get(number, 2**63) for number, seq in found) for found in both)
    n_old = n_rows + n_embeddings
    ok = n_old == 0 and not any(each.rows or each.marks or each.caches for each in checks.values())
    outlives = all(evidence.kept.get((user, at), -1) >= answer.erased_below for at, answer in answers.items())
    return Verified(ok, n_rows, n_embeddings, sum(map(len, both)) > n_old, stores, outlives)


def _expires_at(timestamp_ms: int, after_ms: int) -> str | None:
    """When a record is due to go; null for never, and for one that does not say when it came."""
    if after_ms < 0 or timestamp_ms < 0:
        return None
    try:
        return _utc(timestamp_ms + after_ms)
    except OverflowError:
        return None


def _utc(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
