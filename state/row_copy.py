"""The rows of all partitions in a database of their own: a copy of a state that need not fit in memory."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rocksdict import Rdict, WriteBatch

from state.errors import failure
from state.options import StoreResources, open_database
from state.scan import check_read

_PARTITION_BYTES = 4
_READ_ROWS = 2_000


class RowCopy:
    """The newest value of every key of every partition; whoever made the folder deletes it."""

    def __init__(self, path: Path, resources: StoreResources) -> None:
        self._path = path
        self._db: Rdict = open_database(path, resources)

    def write(self, rows: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Put rows, in order: (partition, key, value), None deletes."""
        batch = WriteBatch(raw_mode=True)
        for number, key, value in rows:
            place = number.to_bytes(_PARTITION_BYTES) + key
            batch.delete(place) if value is None else batch.put(place, value)
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB says
            raise failure("write", error, self._path) from error

    def get(self, number: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys of one partition, in their order."""
        place = number.to_bytes(_PARTITION_BYTES)
        values: list[bytes | None] = self._db.get([place + key for key in keys]) if keys else []
        return values

    def has(self, number: int, user: bytes) -> bool:
        """Whether there is any row of this user in this partition."""
        first, iterator = number.to_bytes(_PARTITION_BYTES) + user + b"\0", self._db.iter()
        iterator.seek(first)
        found = iterator.valid() and iterator.key().startswith(first)
        check_read(iterator)
        return bool(found)

    def rows(self, number: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows of one partition in the order of their keys, some at a time."""
        first, after = number.to_bytes(_PARTITION_BYTES), (number + 1).to_bytes(_PARTITION_BYTES)
        iterator, found = self._db.iter(), list[tuple[bytes, bytes]]()
        iterator.seek(first)
        while iterator.valid() and (place := iterator.key()) < after:
            found.append((place[_PARTITION_BYTES:], iterator.value()))
            if len(found) == _READ_ROWS:
                yield found
                found = []
            iterator.next()
        check_read(iterator)
        yield found

    @property
    def n_about(self) -> int:
        """Estimated number of rows of all partitions."""
        return self._db.property_int_value("rocksdb.estimate-num-keys") or 0

    def close(self) -> None:
        """Give up the database."""
        self._db.close()
