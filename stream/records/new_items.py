"""New items: the records of the items topic, and the interests that a worker learns from them.

A record stands under its ``item_id``; its value is JSON with ``interest`` and ``interest_space_id``, with
``attributes``, or with both; null forgets. The bundle's own items keep their interest, whatever a record says.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from lurm_model.interests.codebook import Codebook, WrittenAttributes
from state.errors import UNREADABLE
from stream.outcomes import ItemOutcome
from stream.records.events import ID_BYTES_MAX


class NewItem(Struct, frozen=True, omit_defaults=True):
    """The value of a record. The interest is a number of this interest space; attributes serve in every other."""

    attributes: WrittenAttributes | None = None
    interest: int | None = None
    interest_space_id: str | None = None


class ItemRecord(NamedTuple):
    """What we read of a Kafka record."""

    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Lesson(NamedTuple):
    """What one record says: the item's interest, None if it has none; no item when its key is none."""

    item: str | None
    interest: int | None
    outcome: ItemOutcome


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(NewItem)


def encode(item: NewItem) -> bytes:
    """The value of a record; its key is the item id."""
    return _encoder.encode(item)


class _Said(NamedTuple):
    """What the last record of an item in one partition says; these are ordered by their first two fields."""

    timestamp_ms: int
    partition: int
    interest: int | None


class LearnedItems:
    """Item -> interest beside the bundle's.

    Invariant: what is known of an item is a function of the last record under its key in each partition, whatever the
    order in which partitions are read: of those, the one with the highest time holds, of equal times the one in the
    higher partition. So all workers agree, and compaction and restarts change nothing; only a null in one of several
    partitions must not be older than the others, since compaction forgets it. A newest record that says nothing leaves
    the item unknown. `take` and whoever looks up run on the event loop's thread, so there is no lock; `read` changes
    nothing and may run anywhere.

    ``n_partitions``: how many the records come from. One has one order, and needs no times.
    """

    def __init__(self, codebook: Codebook, n_partitions: int = 1) -> None:
        self.interest_of: dict[str, int] = {}
        self._n_partitions = n_partitions
        self._codebook = codebook
        self._said: dict[str, tuple[_Said, ...]] = {}

    def beginning(self, n_partitions: int) -> "LearnedItems":
        """One that knows nothing yet, to read a topic of so many partitions from its beginning."""
        return LearnedItems(self._codebook, n_partitions)

    def become(self, other: "LearnedItems") -> None:
        """Know what the other knows, and nothing else; whoever looks up goes on."""
        self.interest_of.clear()
        self.interest_of.update(other.interest_of)
        self._n_partitions, self._said = other._n_partitions, other._said  # noqa: SLF001 - one of its kind

    def read(self, records: Sequence[ItemRecord]) -> list[Lesson]:
        """What these records say, in their order."""
        lessons: list[Lesson] = []
        asked: dict[int, WrittenAttributes] = {}
        for record in records:
            item = _item_of(record.key)
            lesson = Lesson(None, None, ItemOutcome.BAD_KEY) if item is None else self._lesson(item, record.value)
            if isinstance(lesson, Lesson):
                lessons.append(lesson)
            else:
                asked[len(lessons)] = lesson
                lessons.append(Lesson(item, None, ItemOutcome.UNKNOWN))
        interests = self._codebook.assign_many(list(asked.values())).tolist()
        for i, interest in zip(asked, interests, strict=True):
            if interest != self._codebook.unknown:
                lessons[i] = lessons[i]._replace(interest=interest, outcome=ItemOutcome.LEARNED)
        return lessons

    def take(self, records: Sequence[ItemRecord], lessons: Sequence[Lesson]) -> Counter[ItemOutcome]:
        """Know from now on what these records said when they were read; how many there were of each outcome."""
        outcomes: Counter[ItemOutcome] = Counter()
        for record, (item, interest, outcome) in zip(records, lessons, strict=True):
            outcomes[outcome] += 1
            if item is None or outcome is ItemOutcome.IN_BUNDLE:
                continue
            holds = interest if self._n_partitions == 1 else self._holding(item, record, interest)
            if holds is None:
                self.interest_of.pop(item, None)
            else:
                self.interest_of[item] = holds
        return outcomes

    def _holding(self, item: str, record: ItemRecord, interest: int | None) -> int | None:
        """What holds of an item now that its partition says this."""
        others = [each for each in self._said.get(item, ()) if each.partition != record.partition]
        said = (*others, _Said(record.timestamp_ms, record.partition, interest))
        self._said[item] = said
        return max(said, key=lambda each: each[:2]).interest

    def _lesson(self, item: str, value: bytes | None) -> Lesson | WrittenAttributes:
        """What a value says at once, else the attributes that the item's interest follows from."""
        book = self._codebook
        new = ItemOutcome.IN_BUNDLE if item in book.interest_of else _decode(value)
        if isinstance(new, ItemOutcome):
            return Lesson(item, None, new)
        if new.interest is None or new.interest_space_id != book.interest_space_id:
            return new.attributes or Lesson(
                item, None, ItemOutcome.UNKNOWN if new.interest is None else ItemOutcome.OTHER_SPACE
            )
        if 0 <= new.interest < book.unknown:
            return Lesson(item, new.interest, ItemOutcome.LEARNED)
        return Lesson(item, None, ItemOutcome.NO_SUCH_INTEREST)


def _decode(value: bytes | None) -> NewItem | ItemOutcome:
    if value is None:
        return ItemOutcome.FORGOTTEN
    try:
        return _decoder.decode(value)
    except msgspec.ValidationError:
        return ItemOutcome.WRONG_TYPE
    except UNREADABLE:
        return ItemOutcome.NOT_JSON


def _item_of(key: bytes | None) -> str | None:
    """The item id of a key, None if no event can name it."""
    try:
        item = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return item if 0 < len(key or b"") <= ID_BYTES_MAX else None
