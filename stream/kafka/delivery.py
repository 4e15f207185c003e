"""Records on their way to whoever handles them, and the offsets that may be committed: those of what was handled.

It knows no client: whoever fetches adds the records, commits what `Delivery.handled` says, and drops what a rebalance
took away.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from kafka import ConsumerRebalanceListener, TopicPartition

T = TypeVar("T")


class Reading(Protocol[T]):
    """What records mean to a reader."""

    def understand(self, record: Any) -> T | None:
        """What it says; None when it says nothing to this reader. What this raises is raised at every attempt."""

    def unsee(self, change: T) -> None:
        """It was not handled, and will come again."""


class Delivery(Generic[T]):
    """Hands out changes in order, any number at a time.

    Invariant: an offset is in ``handled`` only when each record below it was handled, or says nothing to the reader.
    """

    def __init__(self, reading: Reading[T]) -> None:
        self._reading = reading
        self._waiting: deque[Any] = deque()
        self._given: list[tuple[Any, T | None]] = []
        self._handled: dict[TopicPartition, int] = {}

    @property
    def n_waiting(self) -> int:
        """Records that were fetched and not looked at."""
        return len(self._waiting)

    @property
    def handled(self) -> Mapping[TopicPartition, int]:
        """The offsets to commit: of each partition the one after the last record handled."""
        return dict(self._handled)

    def add(self, records: Iterable[Any]) -> None:
        """What was fetched, in order within a partition."""
        self._waiting.extend(records)

    def take(self, n_max: int) -> list[T]:
        """The next changes; they are given, not handled. **Raises** what `Reading.understand` does of the first."""
        changes: list[T] = []
        while self._waiting and len(changes) < n_max:
            try:
                change = self._reading.understand(self._waiting[0])
            except Exception:
                if changes:
                    break
                raise
            self._given.append((self._waiting.popleft(), change))
            if change is not None:
                changes.append(change)
        if all(change is None for _, change in self._given):
            self.handle()
        return changes

    def handle(self) -> None:
        """All that was given is handled."""
        self._handled |= {place_of(record): record.offset + 1 for record, _ in self._given}
        self._given.clear()

    def give_back(self) -> None:
        """What was given is not handled: it is taken next."""
        given, self._given = self._given, []
        self._waiting.extendleft(reversed(self._unseen(given)))

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """These are another reader's now, or will be fetched again from what was committed."""
        self._unseen([each for each in self._given if place_of(each[0]) in partitions])
        self._given = [each for each in self._given if place_of(each[0]) not in partitions]
        self._waiting = deque(each for each in self._waiting if place_of(each) not in partitions)
        self._handled = {place: offset for place, offset in self._handled.items() if place not in partitions}

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These need not be committed again."""
        self._handled = {place: offset for place, offset in self._handled.items() if offsets.get(place) != offset}

    def _unseen(self, given: Iterable[tuple[Any, T | None]]) -> list[Any]:
        """The records that said something, as if they had never been looked at."""
        records = []
        for record, change in given:
            if change is not None:
                self._reading.unsee(change)
                records.append(record)
        return records


def place_of(record: Any) -> TopicPartition:
    """Where a record stands."""
    return TopicPartition(record.topic, record.partition)


class Moved(ConsumerRebalanceListener):
    """Which partitions rebalances took and brought; told by the client's own thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lost: set[TopicPartition] = set()
        self._gained: set[TopicPartition] = set()

    @property
    def gained(self) -> set[TopicPartition]:
        """What is ours since it was settled last."""
        with self._lock:
            return set(self._gained)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Somebody else may have them next; or we, from what was committed."""
        with self._lock:
            self._lost |= set(revoked)
            self._gained -= set(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """They are ours."""
        with self._lock:
            self._gained |= set(assigned)

    def pop_lost(self) -> set[TopicPartition]:
        """What was lost since this was asked last."""
        with self._lock:
            lost, self._lost = self._lost, set()
            return lost

    def settle(self, place: TopicPartition) -> None:
        """It is read from the right offset now."""
        with self._lock:
            self._gained.discard(place)
