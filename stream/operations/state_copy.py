"""The newest committed state of an application in a temporary database, with every user's rows together.

A user's rows lie in several partitions where producers used different partitioners, or partitions were added to the
events topic. Each part was counted from other events, so the whole life is their sum.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from state.options import StoreOptions, StoreResources
from state.record import Ledger, PartitionRecord, decode_record
from state.row_copy import RowCopy
from state.rows import RECORD_KEY, is_row_key, sum_values, user_of
from stream.errors import LurmError
from stream.operations.replay import Progress, read_topic
from stream.partition.erased import ErasedUsers
from stream.records.partitioners import Partitioner, explanation, partitions_of
from stream.settings import Settings

Row = tuple[bytes, bytes]
_CHUNK_USERS = 1_000
_REMEMBERED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Copy:
    """The rows on disk, the partition records in memory; `gather` brings each user's rows home.

    ``unerased``: users whose erasure waits for workers that cannot run, since partitions were added. ``erased``: whose
    events the old workers would skip, by partition. ``n_merged``: parts of lives that lay apart from the rest.
    """

    rows: RowCopy
    records: Mapping[int, PartitionRecord]
    n_partitions: int
    partitioner: Partitioner = "murmur2"
    unerased: Sequence[str] = ()
    erased: Mapping[int, ErasedUsers] = field(default_factory=dict)
    n_merged: int = 0

    @property
    def ledger(self) -> Ledger:
        """The sum over all partitions."""
        return sum((record.ledger for record in self.records.values()), Ledger())

    def users(self, n: int) -> Iterator[tuple[int, list[Row]]]:
        """Every user's rows, and the user's place among so many partitions."""
        users = (each for number in range(self.n_partitions) for each in _by_user(self.rows, number))
        while chunk := list(islice(users, _CHUNK_USERS)):
            places = partitions_of([user for user, _ in chunk], n, self.partitioner).tolist()
            yield from ((place, rows) for place, (_, rows) in zip(places, chunk, strict=True))

    def homes(self, users: Sequence[bytes]) -> list[int]:
        """The old partition that holds all rows of each of these users once they are gathered."""
        homes: list[int] = partitions_of(users, self.n_partitions, self.partitioner).tolist()
        return homes


@dataclass
class Strays:
    """Who lies where the partitioner puts nobody, and how many of them have another part of their life elsewhere."""

    n: int = 0
    n_apart: int = 0
    n_merged: int = 0
    users: list[bytes] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)

    def add(self, user: bytes, partition: int, *, is_apart: bool) -> None:
        """One user more."""
        self.n += 1
        self.n_apart += is_apart
        if len(self.users) < _REMEMBERED_MAX:
            self.users.append(user)
            self.partitions.append(partition)

    def refuse(self, state: Copy) -> None:
        """**Raises** `LurmError` when they speak for another partitioner, not for several."""
        if not self.n or self.n_apart:
            return
        other = explanation(self.users, self.partitions, state.n_partitions)
        raise LurmError(
            f"users lie where the partitioner of the events topic does not put them, and nobody lies in several "
            f"partitions: users={self.n} topics.partitioner={state.partitioner} "
            f"placed_by={other or 'unknown'}; say with --partitioner how the producers of the new events topic place "
            "users"
        )


@contextmanager
def copied(
    settings: Settings, n: int, progress: Progress | None = None, partitioner: Partitioner = "murmur2"
) -> Iterator[Copy]:
    """The state of an application as its changelog says, in a temporary database while the block runs."""
    records: dict[int, PartitionRecord] = {}
    with (
        tempfile.TemporaryDirectory(prefix="lurm-repartition-") as folder,
        closing(RowCopy(Path(folder) / "rows", StoreResources(StoreOptions()))) as rows,
    ):
        for batch in read_topic(settings, settings.changelog_topic, progress):
            rows.write((each.partition, each.key, each.value) for each in batch if is_row_key(each.key))
            newest = {each.partition: each.value for each in batch if each.key == RECORD_KEY and each.value}
            records |= {number: decode_record(value) for number, value in newest.items()}
        yield Copy(rows, records, n, partitioner)


def gather(state: Copy, n_events: int) -> Strays:
    """Add up each user's rows where the partitioner puts the user among the state's partitions.

    Who lies where it would among ``n_events``, which partitions were added to, is no stray.
    """
    strays = Strays()
    for number in range(state.n_partitions):
        before = None
        for rows in state.rows.rows(number):
            parts = {user: list(own) for user, own in groupby(rows, lambda row: user_of(row[0]))}
            added = partitions_of(list(parts), n_events, state.partitioner).tolist()
            writes: list[tuple[int, bytes, bytes | None]] = []
            for (user, own), home, after in zip(parts.items(), state.homes(list(parts)), added, strict=True):
                if home == number:
                    continue
                # The first rows of a user whose others come with the next ones have been moved by then.
                if user != before:
                    is_apart = state.rows.has(home, user)
                    strays.n_merged += is_apart
                    if after != number or n_events == state.n_partitions:
                        strays.add(user, number, is_apart=is_apart)
                writes += _moved(state.rows, own, number, home)
            before = next(reversed(parts), before)
            state.rows.write(writes)
    return strays


def _moved(rows: RowCopy, own: Sequence[Row], number: int, home: int) -> Iterator[tuple[int, bytes, bytes | None]]:
    """What brings these rows of a user home, where there may be others of the same periods."""
    for (key, value), there in zip(own, rows.get(home, [key for key, _ in own]), strict=True):
        yield home, key, value if there is None else sum_values([there], [value])[0]
        yield number, key, None


def _by_user(rows: RowCopy, number: int) -> Iterator[tuple[bytes, list[Row]]]:
    for user, own in groupby((row for some in rows.rows(number) for row in some), lambda row: user_of(row[0])):
        yield user, list(own)
