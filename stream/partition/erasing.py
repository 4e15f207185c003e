"""What one transaction of erasures takes: whose markers, what the store holds of them, and what is answered.

Markers are taken together, as many as a transaction holds well, so that a hundred thousand users are erased in minutes
and a batch of events waits for none of it long.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from state.record import PartitionRecord
from state.store import BagStore
from state.view import Held
from stream.records.erasure import Answer, Checked, Erasure, Marker, digest_of, encode, encode_erasure, erasure_key
from stream.records.outgoing import Outgoing

logger = logging.getLogger("lurm")

# Their embeddings' tombstones are one batch of a transaction, whose offsets follow each other.
_USERS_MAX: Final = 256
# As many rows as are deleted at once, and those of one more user.
_ROWS_MAX: Final = 20_000
NOTHING: Final = Held([], 0)


class ControlPlace:
    """Which control topic is read for a partition."""

    def __init__(self) -> None:
        self.topic_id = ""

    def follow(self, record: PartitionRecord, topic_id: str) -> int:
        """Where to read on in the topic of this id: one that was made anew is read from its beginning."""
        known = record.control_id
        self.topic_id = topic_id or known
        if "" in (topic_id, known) or topic_id == known:
            return record.control_offset
        logger.warning("the control topic is another one, and is read from its beginning: id=%s", topic_id)
        return 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A marker of a control partition, and the offset that comes after it."""

    marker: Marker
    next_offset: int


@dataclass(frozen=True, slots=True)
class Doomed:
    """A user to erase: what the store holds, which an earlier marker of the same transaction may take already."""

    marker: Marker
    user: bytes
    rows: list[bytes]
    marks: int
    caches: int

    @property
    def is_shown(self) -> bool:
        """Whether an embedding may stand in the topic."""
        return bool(self.marker.embedded or self.rows or self.marks or self.caches)


def doom(store: BagStore, asked: Sequence[Asked]) -> list[Doomed]:
    """The users of the first of these markers, of as many as a transaction takes; at least one."""
    view, n_rows, seen = store.view(), 0, set[bytes]()
    doomed: list[Doomed] = []
    for each in asked[:_USERS_MAX]:
        if n_rows >= _ROWS_MAX:
            break
        user = each.marker.user.encode()
        held = NOTHING if user in seen else view.held(user)
        marks = int(user in store.marks and user not in seen)
        doomed.append(Doomed(each.marker, user, held.rows, marks, held.caches))
        seen.add(user)
        n_rows += len(held.rows)
    return doomed


def erased_end(marker: Marker, record: PartitionRecord) -> int:
    """The source offset below which nothing of the user counts.

    What was applied since the marker was written is in the same rows, and goes with them. An end in a topic that was
    recreated meanwhile says nothing of the events of the new one, which are a new life.
    """
    is_other = bool(marker.source_id and record.source_id) and marker.source_id != record.source_id
    return record.next_offset if is_other else max(marker.end_offset, record.next_offset)


@dataclass(frozen=True, slots=True)
class Deed:
    """What erasing some users did: offsets are those of the source, the changelog and the embeddings."""

    record: PartitionRecord
    changelog_after: int
    tombstones: dict[bytes, int]
    erased_at_ms: int

    def answer(self, each: Doomed, end: int) -> Outgoing:
        """The owner's answer about one of them, whose events below ``end`` count no more."""
        answer = Answer(
            id=each.marker.id,
            epoch=self.record.epoch,
            applied_below=self.record.next_offset,
            erased_below=end,
            rows=len(each.rows),
            marks=each.marks,
            caches=each.caches,
            changelog_after=self.changelog_after,
            embedding_offset=self.tombstones.get(each.user) if each.is_shown else None,
            erased_at_ms=self.erased_at_ms,
        )
        return Outgoing(each.marker.id.encode(), encode(answer))

    def erasure(self, user: bytes, end: int, source: str, app_id: str) -> Outgoing:
        """What is remembered of it for ever."""
        key = erasure_key(digest_of(source, user), app_id)
        return Outgoing(key, encode_erasure(Erasure(source, end, self.erased_at_ms)))


def checked(store: BagStore, doomed: Sequence[Doomed]) -> list[Outgoing]:
    """What the store says of these users when it is read again."""
    view = store.view()
    said = []
    for each in doomed:
        held = view.held(each.user)
        found = Checked(each.marker.id, len(held.rows), int(each.user in store.marks), held.caches)
        said.append(Outgoing(each.marker.id.encode(), encode(found)))
    return said
