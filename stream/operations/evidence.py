"""What the topics hold of erased users, read once for all of them, however many they are.

Of every record of theirs only what a receipt is made of is kept in memory.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from state.errors import UNREADABLE
from state.rows import decode_header, is_row_key, user_of
from stream.kafka.topics import end_offsets, topic_id
from stream.operations.erasure_request import Asked, Said
from stream.operations.replay import Progress, read_topic
from stream.records.dead_letters import PREFIX
from stream.records.embedding_record import Embedding, Foreign
from stream.records.erasure import Answer, Marker, decode, decode_erasure, digest_of, source_of
from stream.settings import Settings


class Seen(NamedTuple):
    """A record of a user; ``seq`` of a row or an embedding, ``reason`` of a dead letter."""

    partition: int
    offset: int
    timestamp: int
    key: bytes
    is_tombstone: bool
    seq: int | None = None
    reason: str | None = None


def _by_user() -> Any:
    return defaultdict(list)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Records by user, in the order of each partition; ``events`` is None when the events topic was not read.

    ``markers`` and the answers to them, by their id, are also those of erasures before; ``kept`` is up to where the
    erasures topic says that a partition's events of the user are erased.
    """

    rows: Mapping[bytes, list[Seen]]
    embeddings: Mapping[bytes, list[Seen]]
    letters: Mapping[bytes, list[Seen]]
    events: Mapping[bytes, list[Seen]] | None
    markers: Mapping[bytes, list[tuple[int, Marker]]] = field(default_factory=_by_user)
    answers: Mapping[str, dict[int, Answer]] = field(default_factory=lambda: defaultdict(dict))
    kept: Mapping[tuple[bytes, int], int] = field(default_factory=dict)


def gather(settings: Settings, asked: Asked, said: Said, progress: Progress, *, with_events: bool) -> Evidence:
    """Read the topics."""
    topics, users = settings.topics, {user.encode() for user in asked.users.values()}

    def collect(topic: str, users_in: Callable[[Any], Iterable[bytes]], see: Callable[[Any], Seen]) -> Any:
        found = _by_user()
        for record in chain.from_iterable(read_topic(settings, topic, progress)):
            for user in users_in(record):
                found[user].append(see(record))
        return found

    def keyed(record: Any) -> Iterable[bytes]:
        return (record.key,) if record.key in users else ()

    ends = _ends(asked, said)
    evidence = Evidence(
        rows=collect(settings.changelog_topic, lambda record: _row_users(record, users), _row),
        embeddings=collect(topics.embeddings, keyed, partial(_embedding, Foreign())),
        letters=collect(topics.dead_letters, lambda record: _letter_users(record, users), _letter),
        events=collect(topics.events, lambda record: _erased_users(record, ends), _plain) if with_events else None,
        kept=_kept(settings, asked, said, progress),
    )
    _read_control(settings, users, evidence, progress)
    return evidence


def _ends(asked: Asked, said: Said) -> dict[bytes, dict[int, int]]:
    return {
        user.encode(): {at: answer.erased_below for at, answer in said.answers.get(number, {}).items()}
        for number, user in asked.users.items()
    }


def _row_users(record: Any, users: Collection[bytes]) -> Iterable[bytes]:
    return (user,) if is_row_key(record.key) and (user := user_of(record.key)) in users else ()


def _erased_users(record: Any, ends: Mapping[bytes, Mapping[int, int]]) -> Iterable[bytes]:
    own = ends.get(record.key) if record.key is not None else None
    return (record.key,) if own and record.offset < own.get(record.partition, 0) else ()


class _Event(Struct):
    user_id: str


_decode_event = msgspec.json.Decoder(_Event).decode


def _letter_users(record: Any, users: set[bytes]) -> Iterable[bytes]:
    """Whom a dead letter is about, if that can be read: its key need not be the user."""
    try:
        said = _decode_event(record.value or b"").user_id.encode()
    except (*UNREADABLE, UnicodeEncodeError):
        said = None
    return {record.key, said} & users


def _plain(record: Any) -> Seen:
    return Seen(record.partition, record.offset, record.timestamp, record.key, record.value is None)


def _row(record: Any) -> Seen:
    seq = None if record.value is None else int(decode_header([record.value])[0][0])
    return _plain(record)._replace(seq=seq)


def _embedding(foreign: Foreign, record: Any) -> Seen:
    said = foreign.decode(record)
    return _plain(record)._replace(seq=said.seq if isinstance(said, Embedding) else None)


def _letter(record: Any) -> Seen:
    reason = dict(record.headers).get(PREFIX + "reason", b"").decode(errors="replace")
    return _plain(record)._replace(reason=reason or None)


def _read_control(settings: Settings, users: Collection[bytes], evidence: Evidence, progress: Progress) -> None:
    """The markers of these users and what was answered, which stands behind them in the same partition."""
    known: set[str] = set()
    for record in chain.from_iterable(read_topic(settings, settings.control_topic, progress)):
        said = decode(record.value)
        if isinstance(said, Marker) and (user := said.user.encode()) in users:
            known.add(said.id)
            evidence.markers[user].append((record.timestamp, said))
        elif isinstance(said, Answer) and said.id in known:
            evidence.answers[said.id][record.partition] = said


def _kept(settings: Settings, asked: Asked, said: Said, progress: Progress) -> dict[tuple[bytes, int], int]:
    """What the erasures topic says of these users and the present source; no topic says nothing."""
    if not end_offsets(settings, settings.erasures_topic):
        return {}
    found_id, events = topic_id(settings, settings.topics.events) or "", settings.topics.events
    epochs = {answer.epoch for answers in said.answers.values() for answer in answers.values()}
    digests = {
        digest_of(source, user.encode()): user.encode()
        for user in asked.users.values()
        for source in {source_of(found_id, events, epoch) for epoch in epochs}
    }
    kept: dict[tuple[bytes, int], int] = {}
    for record in chain.from_iterable(read_topic(settings, settings.erasures_topic, progress)):
        known = decode_erasure(record.key, record.value)
        if known is not None and (owner := digests.get(known.digest)) is not None:
            place = owner, record.partition
            kept[place] = max(known.end_offset, kept.get(place, 0))
    return kept
