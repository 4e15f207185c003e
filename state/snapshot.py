"""Snapshots: one partition's state as sorted files that RocksDB ingests, and a manifest that vouches for them.

Reading goes through a secondary instance, beside a live owner or without one. Rows, record, marks and changelog offset
are of one instant: a WriteBatch is one entry of the log that the instance reads, and it reads it once.
"""

import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rocksdict import AccessType, Rdict, SstFileWriter

from state.errors import UNREADABLE, FormatUnknown, StateError, StoreUnavailable
from state.options import MARKS, META, ROWS, StoreResources, open_database
from state.record import decode_record
from state.rows import RECORD_KEY
from state.scan import check_read, scan
from state.store import APPLIED_KEY, CHANGELOG_KEY, FORMAT, FORMAT_KEY, BagStore, decode_applied

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
# The files that `take` writes.
_NAME: Final = re.compile(rf"({ROWS}|{MARKS})-\d{{5,}}\.sst", re.ASCII)
# A file is finished when it has this many bytes, so that a damaged one costs little and none grows without bound.
_FILE_BYTES: Final = 128 << 20
_OPEN_ATTEMPTS: Final = 5
_REPORT_ROWS: Final = 50_000

Progress = Callable[[int, int], None]


class SnapshotUnusable(StateError):
    """The snapshot is incomplete, damaged or of another format: use another one, or replay the changelog."""


class Origin(msgspec.Struct, frozen=True):
    """Whose state it is: the application, the partition, and the changelog that continues it."""

    app_id: str
    partition: int
    changelog: str
    changelog_id: str | None


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot holds. **Units**: ``meta`` values are hexadecimal; ``files`` maps name to sha256."""

    origin: Origin
    changelog_offset: int
    applied_at_s: float
    interest_space_id: str
    scales: str
    rows: int
    marks: int
    meta: dict[str, str]
    files: dict[str, dict[str, str]]
    version: int = VERSION


def take(database: Path, out: Path, origin: Origin, resources: StoreResources, progress: Progress) -> Manifest:
    """Write a snapshot of a database into the new folder ``out``, which appears whole or not at all.

    **Raises** `StoreUnavailable` when there is nothing to read, `SnapshotUnusable` when ``out`` exists.
    """
    if out.exists():
        raise SnapshotUnusable(f"the snapshot exists already: path={out}")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with _secondary(database, resources) as reader:
            manifest = _write(reader, part, origin, resources, progress)
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def load(folder: Path) -> Manifest:
    """The manifest of a snapshot whose files are all there and as they were written.

    A manifest may come from anybody: no name in it leads out of the folder. **Raises** `SnapshotUnusable`.
    """
    try:
        _refuse_odd(folder / MANIFEST)
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if manifest.version != VERSION:
            raise SnapshotUnusable(
                f"the snapshot has another format: version={manifest.version} known={VERSION} path={folder}"
            )
        _refuse_contradiction(manifest, folder)
        for name, digest in ((name, digest) for files in manifest.files.values() for name, digest in files.items()):
            if not _NAME.fullmatch(name):
                raise SnapshotUnusable(f"the snapshot's manifest names no file of its own: {name!r} path={folder}")
            _refuse_odd(folder / name)
            if _sha256(folder / name) != digest:
                raise SnapshotUnusable(f"a file of the snapshot is damaged: file={folder / name}")
    except OSError as error:
        raise SnapshotUnusable(f"the snapshot is incomplete: {error.strerror} file={error.filename}") from error
    except UNREADABLE as error:
        raise SnapshotUnusable(f"the snapshot's manifest cannot be read: {error} path={folder / MANIFEST}") from error
    return manifest


def _refuse_odd(file: Path) -> None:
    """A link leads elsewhere, and a pipe may be read for ever."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise SnapshotUnusable(f"not a plain file in the snapshot: file={file}")


def _refuse_contradiction(manifest: Manifest, folder: Path) -> None:
    """What is said twice must agree; what is missing in the database is found once it is made."""
    file = folder / MANIFEST
    try:
        meta = {key: bytes.fromhex(value) for key, value in manifest.meta.items()}
        applied = decode_applied(meta[APPLIED_KEY.decode()]) if APPLIED_KEY.decode() in meta else None
    except (ValueError, struct.error) as error:
        raise SnapshotUnusable(f"the snapshot's manifest cannot be read: {error} path={file}") from error
    if set(manifest.files) != {ROWS, MARKS} or applied not in (
        None,
        (manifest.changelog_offset, manifest.applied_at_s),
    ):
        raise SnapshotUnusable(f"the snapshot's manifest contradicts itself: path={file}")


def restore(folder: Path, manifest: Manifest, database: Path, resources: StoreResources) -> None:
    """Put a snapshot in the place of a database that nobody has open; what stood there is gone afterwards.

    **Raises** `SnapshotUnusable` when RocksDB cannot take it; then what stood there stands there still.
    """
    new = database.with_name(f"restoring-{database.name}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _ingest(folder, manifest, new, resources)
        _check(new, resources, manifest, folder)
        shutil.rmtree(database, ignore_errors=True)
        new.replace(database)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _ingest(folder: Path, manifest: Manifest, database: Path, resources: StoreResources) -> None:
    # The lock is freed when the last handle dies, column families' included: they all die with this call.
    with open_database(database, resources) as opened:
        for family in (ROWS, MARKS):
            paths = [str(folder / name) for name in manifest.files[family]]
            if paths:
                _ingest_files(opened.get_column_family(family), paths, folder)
        meta = opened.get_column_family(META)
        if manifest.origin.changelog_id:  # one that an earlier version took does not say it here
            meta[CHANGELOG_KEY] = manifest.origin.changelog_id.encode()
        for key, value in manifest.meta.items():
            meta[key.encode()] = bytes.fromhex(value)


def _ingest_files(family: Rdict, paths: list[str], folder: Path) -> None:
    try:
        family.ingest_external_file(paths)
    except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB says
        raise SnapshotUnusable(f"the snapshot cannot be taken in: {error} path={folder}") from error


def _check(database: Path, resources: StoreResources, manifest: Manifest, folder: Path) -> None:
    try:
        store = BagStore(database, resources)
    except StateError as error:
        raise SnapshotUnusable(f"the snapshot makes no store: {error} snapshot={folder}") from error
    record = store.record
    found = (store.changelog_offset, len(store.marks), record and (record.interest_space_id, record.scales))
    store.close()
    if found != (manifest.changelog_offset, manifest.marks, (manifest.interest_space_id, manifest.scales)):
        raise SnapshotUnusable(f"the snapshot's files and its manifest disagree: path={folder}")


@contextmanager
def _secondary(database: Path, resources: StoreResources) -> Iterator[Rdict]:
    if not (database / "CURRENT").exists():
        raise StoreUnavailable(f"there is no database: path={database}")
    with tempfile.TemporaryDirectory(prefix="lurm-snapshot-") as own:
        reader = _open_secondary(database, Path(own), resources)
        try:
            yield reader
        finally:
            reader.close()


def _open_secondary(database: Path, own: Path, resources: StoreResources) -> Rdict:
    """The owner may compact a file away while it is being opened: another attempt sees the new files."""
    for attempt in range(_OPEN_ATTEMPTS):
        options = resources.rocksdb_options()
        options.set_max_open_files(-1)  # once open, a file that the owner deletes can still be read
        families = {name: resources.rocksdb_options() for name in (ROWS, MARKS, META)}
        try:
            return Rdict(str(database), options, families, AccessType.secondary(str(own / str(attempt))))
        except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception for whatever RocksDB says
            failure = error
    raise StoreUnavailable(f"cannot read the database: {failure} path={database}") from failure


def _write(reader: Rdict, part: Path, origin: Origin, resources: StoreResources, progress: Progress) -> Manifest:
    meta = {key: bytes(value) for key, value in scan(reader.get_column_family(META).iter())}
    if meta.get(FORMAT_KEY) != FORMAT:
        raise FormatUnknown(f"the database has another format: version={meta.get(FORMAT_KEY)!r} known={FORMAT!r}")
    stored = reader.get(RECORD_KEY)
    if stored is None or APPLIED_KEY not in meta:
        raise StoreUnavailable(f"nothing was applied yet: path={reader.path()}")
    record = decode_record(stored)
    _refuse_other_changelog(meta.get(CHANGELOG_KEY, b"").decode(), origin, reader.path())
    offset, applied_at_s = decode_applied(meta[APPLIED_KEY])
    expected = reader.property_int_value("rocksdb.estimate-num-keys") or 0
    n_rows, rows = _dump(reader, part, ROWS, resources, lambda n: progress(n, max(n, expected)))
    n_marks, marks = _dump(reader.get_column_family(MARKS), part, MARKS, resources, lambda _: None)
    return Manifest(
        origin, offset, applied_at_s, record.interest_space_id, record.scales, n_rows - 1, n_marks,
        {key.decode(): value.hex() for key, value in meta.items()}, {ROWS: rows, MARKS: marks},
    )  # fmt: skip


def _refuse_other_changelog(applied: str, origin: Origin, path: str) -> None:
    if "" not in (applied, origin.changelog_id or "") and applied != origin.changelog_id:
        raise SnapshotUnusable(
            "the changelog is not the one that was applied here; was it recreated? "
            f"topic={origin.changelog} id={origin.changelog_id} applied={applied} path={path}"
        )


def _dump(
    family: Rdict, part: Path, name: str, resources: StoreResources, report: Callable[[int], None]
) -> tuple[int, dict[str, str]]:
    """Sorted files of a column family: how many entries, and the hash of each file."""
    iterator, n, paths = family.iter(), 0, list[Path]()
    iterator.seek_to_first()
    while iterator.valid():
        paths.append(part / f"{name}-{len(paths):05d}.sst")
        writer = SstFileWriter(resources.rocksdb_options())
        writer.open(str(paths[-1]))
        while iterator.valid():
            writer[iterator.key()] = iterator.value()
            iterator.next()
            n += 1
            if n % _REPORT_ROWS == 0:
                report(n)
                if writer.file_size() >= _FILE_BYTES:
                    break
        writer.finish()
    check_read(iterator)
    report(n)
    return n, {path.name: _sha256(path) for path in paths}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest
