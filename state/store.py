"""One partition's database: rows, partition record, dirty marks, hidden caches, and how far the changelog was applied.

Invariants: the store is never ahead of the changelog, since callers write here only what a committed transaction
holds (I2); rows, record, marks and changelog offset change in one WriteBatch (I3); no iterator outlives a call (I7);
after a failed read or write the store refuses everything, for what it holds is unknown.
"""

import math
import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rocksdict import ColumnFamily, Rdict, WriteBatch

from state.dirty import DirtyMarks
from state.errors import FormatUnknown, StateError, StoreUnavailable, failure
from state.history import Rows
from state.options import CACHES, MARKS, META, StoreResources, open_database
from state.record import PartitionRecord, decode_record, encode_record
from state.replay import Record, newest_per_user
from state.rows import RECORD_KEY, Write, decode_rows, scan_range, seq_of, user_of
from state.scan import check_read, scan
from state.view import StoreView

FORMAT: Final = b"1"
# Kafka's compaction forgets tombstones after delete.retention.ms, which we set to this on changelogs.
TOMBSTONE_RETENTION_S: Final = 7 * 86_400
# A disk that is further behind is wiped: the day between is for the replay itself and for clocks that differ.
BEHIND_S_MAX: Final = TOMBSTONE_RETENTION_S - 86_400
# One dated further ahead of now was dated by a clock that was wrong, and may be of any age.
AHEAD_S_MAX: Final = 43_200

FORMAT_KEY: Final = b"format"
APPLIED_KEY: Final = b"applied"
_APPLIED = struct.Struct("<qd")
# The changelog offset of a store that has applied nothing.
NONE_APPLIED: Final = -1
_REPLAYED_KEY: Final = b"replayed"
CHANGELOG_KEY: Final = b"changelog"
_SEQ = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Changes:
    """What one committed transaction changed.

    ``rows`` and ``marks`` are (key, value), None deletes; ``changelog_offset`` is that of the last changelog record.
    Of the ``erased`` users everything beside their rows goes too; of the ``uncached`` ones the hidden cache.
    """

    rows: Sequence[Write]
    record: PartitionRecord
    changelog_offset: int
    marks: Sequence[Write] = field(default=())
    erased: Sequence[bytes] = field(default=())
    uncached: Sequence[bytes] = field(default=())


class BagStore:
    """The rows of one partition in RocksDB; see the module for its invariants.

    ``published`` is a watermark known from elsewhere, the changelog's end: a replay need not mark what is below it.
    ``changelog_id``: the topic that is applied here, "" while unknown; written with the next offset.
    ``changelog_offset``: the last one applied, `NONE_APPLIED` at first.
    ``written_at_s``: when it last applied anything, on this machine's clock; a new one, when it was opened.
    """

    def __init__(self, path: Path, resources: StoreResources) -> None:
        self.path = path
        self._db = open_database(path, resources)
        self._marks_db: Rdict = self._db.get_column_family(MARKS)
        self._meta_db: Rdict = self._db.get_column_family(META)
        self._caches_db: Rdict = self._db.get_column_family(CACHES)
        self._marks_cf = self._db.get_column_family_handle(MARKS)
        self._meta_cf = self._db.get_column_family_handle(META)
        self._caches_cf = self._db.get_column_family_handle(CACHES)
        self.published = 0
        self.written_at_s = time.time()
        self._failed: str | None = None
        with self._poisoned_on_failure("read"):
            self._check_format()
            self._has_caches = next(scan(self._caches_db.iter()), None) is not None
            self.changelog_id = (self._meta_db.get(CHANGELOG_KEY) or b"").decode()
            self.changelog_offset, self.applied_at_s = self._read_applied()
            self._replayed_seq = _SEQ.unpack(self._meta_db.get(_REPLAYED_KEY) or _SEQ.pack(-1))[0]
            stored = self._db.get(RECORD_KEY)
            self.record: PartitionRecord | None = None if stored is None else decode_record(stored)
            self.marks = self._read_marks()

    @classmethod
    def open_fresh(cls, path: Path, resources: StoreResources, now_s: float, changelog_id: str = "") -> "BagStore":
        """Open the store of this changelog.

        One of another, or so far behind that the changelog may have forgotten tombstones, is wiped first.
        """
        store = cls(path, resources)
        if is_behind(store, now_s) or is_of_another(store, changelog_id):
            store.close()
            shutil.rmtree(path)
            store = cls(path, resources)
        store.changelog_id = changelog_id or store.changelog_id
        return store

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these row keys, in their order."""
        with self._poisoned_on_failure("read"):
            values: list[bytes | None] = self._db.get(list(keys)) if keys else []
        return values

    def read_users(self, users: Sequence[bytes], rows_enough: float = math.inf) -> tuple[list[bytes], Rows]:
        """All rows of these users, from one snapshot; users without rows are missing in the answer.

        No further user is read once there are ``rows_enough`` rows.
        """
        keys, values = list[bytes](), list[bytes]()
        with self._poisoned_on_failure("read"):
            iterator = self._db.snapshot().iter()
            for user in users:
                if len(keys) >= rows_enough:
                    break
                for key, value in scan(iterator, *scan_range(user)):
                    keys.append(key)
                    values.append(value)
        return decode_rows(keys, values)

    def view(self) -> StoreView:
        """What is stored now; to be asked for where the store is written, and dropped before it is closed."""
        self._refuse_failed()
        return StoreView(self._db.iter(), self._caches_db.iter())

    def users_after(self, user: bytes, n: int) -> list[bytes]:
        """The next n users in the order of their ids, for a walk over everybody; ``b""`` begins it."""
        found: list[bytes] = []
        with self._poisoned_on_failure("read"):
            iterator = self._db.iter()
            # The state's own keys start with a NUL, so every user comes after b"\0" and its successors.
            iterator.seek(scan_range(user)[1] if user else b"\x01")
            while len(found) < n and iterator.valid():
                found.append(user_of(iterator.key()))
                iterator.seek(scan_range(found[-1])[1])
            check_read(iterator)
        return found

    def apply(self, changes: Changes) -> None:
        """Write what a committed transaction changed."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.rows:
            batch.delete(key) if value is None else batch.put(key, value)
        batch.put(RECORD_KEY, encode_record(changes.record))
        self._put(batch, changes.marks, self._marks_cf)
        self.marks.forget(changes.erased)
        self._put(batch, [(user, None) for user in changes.erased], self._marks_cf)
        self._put(batch, [(user, None) for user in (*changes.erased, *changes.uncached)], self._caches_cf)
        # Whoever writes the changelog is at its end: the wall clock dates the disk, no row depends on it.
        self._write_applied(batch, changes.changelog_offset, time.time())
        self.record = changes.record

    def clear_marks(self, marks: Sequence[Write], caches: Sequence[Write] = ()) -> None:
        """Write marks and hidden caches, after embeddings were acknowledged."""
        batch = WriteBatch(raw_mode=True)
        self._put(batch, marks, self._marks_cf)
        self._put(batch, caches, self._caches_cf)
        self._has_caches = self._has_caches or bool(caches)
        self._write(batch)

    def replay(self, records: Iterable[Record], changelog_offset: int) -> None:
        """Apply changelog records in order: the last one of a key wins.

        Users of rows at or above the published watermark become dirty, marks below it are dropped. Users of the
        records and of dropped marks lose their hidden caches: no mark will say what changed since.
        """
        newest = {record[0]: record for record in records}
        newest_ms = max((timestamp_ms for _, _, timestamp_ms in newest.values()), default=None)
        _, stored, _ = newest.pop(RECORD_KEY, (RECORD_KEY, None, 0))
        record = self.record if stored is None else decode_record(stored)
        watermark = max(self.published, 0 if record is None else record.published)
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value, _ in newest.values():
            delete(key) if value is None else put(key, value)
        if stored is not None:
            put(RECORD_KEY, stored)
        dirty = newest_per_user(newest.values(), watermark)
        self._put(batch, self.marks.replay(dirty.users, dirty.columns), self._marks_cf)
        published = self.marks.drop_below(watermark)
        self._put(batch, [(user, None) for user in published], self._marks_cf)
        if self._has_caches:
            touched = {user_of(key) for key in newest}.union(published)
            self._put(batch, [(user, None) for user in touched], self._caches_cf)
        if dirty.newest_seq > self._replayed_seq:
            put(_REPLAYED_KEY, _SEQ.pack(dirty.newest_seq), self._meta_cf)
            self._replayed_seq = dirty.newest_seq
        # Not now: a replay that is cut short leaves a disk as old as the last record it applied.
        applied_at_s = self.applied_at_s if newest_ms is None else newest_ms / 1000
        self._write_applied(batch, changelog_offset, applied_at_s)
        self.record = record

    def close(self) -> None:
        """Give up the database and its lock."""
        # RocksDB repeats the error of a failed write when it is closed; whoever met it knows already.
        forgiving = suppress(Exception) if self._failed else nullcontext()
        self._failed = self._failed or f"the database is closed: path={self.path}"
        for handle in (self._marks_db, self._meta_db, self._caches_db, self._db):
            with forgiving:
                handle.close()
        # The lock is freed when the last handle dies, column families' included.
        del self._marks_cf, self._meta_cf, self._caches_cf, self._marks_db, self._meta_db, self._caches_db, self._db

    def sizes(self) -> Mapping[str, int]:
        """Bytes on disk, estimated number of rows, and bytes waiting for compaction."""
        names = {
            "disk_bytes": "rocksdb.total-sst-files-size",
            "rows": "rocksdb.estimate-num-keys",
            "compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
        }
        return {name: self._db.property_int_value(key) or 0 for name, key in names.items()}

    @staticmethod
    def _put(batch: WriteBatch, writes: Sequence[Write], family: ColumnFamily) -> None:
        for key, value in writes:
            batch.delete(key, family) if value is None else batch.put(key, value, family)

    def _write_applied(self, batch: WriteBatch, changelog_offset: int, at_s: float) -> None:
        batch.put(APPLIED_KEY, _APPLIED.pack(changelog_offset, at_s), self._meta_cf)
        if self.changelog_id:
            batch.put(CHANGELOG_KEY, self.changelog_id.encode(), self._meta_cf)
        self._write(batch)
        self.changelog_offset, self.applied_at_s = changelog_offset, at_s
        self.written_at_s = time.time()

    def _write(self, batch: WriteBatch) -> None:
        with self._poisoned_on_failure("write to"):
            self._db.write(batch)

    @contextmanager
    def _poisoned_on_failure(self, doing: str) -> Iterator[None]:
        self._refuse_failed()
        try:
            yield
        except StateError as error:
            self._failed = str(error)
            raise
        except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB says
            # No local name: it would be a cycle, which keeps the database open until it is collected.
            self._failed = str(failure(doing, error, self.path))
            raise failure(doing, error, self.path) from error

    def _refuse_failed(self) -> None:
        """Whoever comes next says what failed first: that one may not be heard."""
        if self._failed:
            raise StoreUnavailable(self._failed)

    def _read_marks(self) -> DirtyMarks:
        applied = -1 if self.record is None else seq_of(self.record.epoch, self.record.next_offset) - 1
        return DirtyMarks(scan(self._marks_db.iter()), max(applied, self._replayed_seq))

    def _check_format(self) -> None:
        found = self._meta_db.get(FORMAT_KEY)
        if found is None:
            self._meta_db.put(FORMAT_KEY, FORMAT)
        elif found != FORMAT:
            raise FormatUnknown(
                f"the database has another format: version={found.decode()} known={FORMAT.decode()} path={self.path}"
            )

    def _read_applied(self) -> tuple[int, float]:
        value = self._meta_db.get(APPLIED_KEY)
        if value is None:
            return NONE_APPLIED, 0.0
        return decode_applied(value)


def is_of_another(store: BagStore, changelog_id: str) -> bool:
    """Whether what was applied is another changelog's: its offsets say nothing about this one, nor do its rows."""
    known = "" not in (store.changelog_id, changelog_id)
    return known and store.changelog_offset != NONE_APPLIED and store.changelog_id != changelog_id


def is_behind(store: BagStore, now_s: float) -> bool:
    """Whether the changelog may have forgotten tombstones that this store has not seen."""
    return store.changelog_offset != NONE_APPLIED and not is_recent(store.applied_at_s, now_s)


def is_recent(applied_at_s: float, now_s: float) -> bool:
    """Whether what was applied last was applied so lately that every later tombstone is still there."""
    return -AHEAD_S_MAX < now_s - applied_at_s < BEHIND_S_MAX


def remove_if_behind(path: Path, resources: StoreResources, now_s: float) -> bool:
    """Delete a database that is so far behind that its next use would wipe it; whether it was.

    **Raises** `StoreUnavailable` when it is locked or cannot be read: leave it.
    """
    store = BagStore(path, resources)
    behind = is_behind(store, now_s)
    store.close()
    if behind:
        shutil.rmtree(path)
    return behind


def decode_applied(value: bytes) -> tuple[int, float]:
    """The changelog offset a store has applied, and when that was (Unix s)."""
    offset, at_s = _APPLIED.unpack(value)
    return offset, at_s
