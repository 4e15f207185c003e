import shutil
import threading
from pathlib import Path

import pytest

from state.dirty import Mark
from state.errors import StoreUnavailable
from state.options import StoreOptions, StoreResources
from state.record import PartitionRecord
from state.snapshot import MANIFEST, Origin, SnapshotUnusable, load, restore, take
from state.store import NONE_APPLIED, BagStore, Changes
from tests.unit.state.test_store import BagStoreAt, columns, contents, row

ORIGIN = Origin("app", 0, "app-bags-changelog", "id")
USERS = [b"user-%02d" % i for i in range(50)]


@pytest.fixture
def resources() -> StoreResources:
    return StoreResources(StoreOptions(cache_bytes=32 << 20, memtable_bytes=8 << 20))


def write(store: BagStore, step: int) -> None:
    """Every user's row, the record, a mark and the offset all say ``step``."""
    rows = [row(user, 10, step, step) for user in USERS]
    user = USERS[step % len(USERS)]
    marks = store.marks.add([user], columns(Mark(step, step, 1000, 10)))
    store.apply(Changes(rows, PartitionRecord("space", "day,month", step), step, marks))


def snapshot(database: Path, out: Path) -> None:
    take(database, out, ORIGIN, StoreResources(StoreOptions()), lambda *_: None)


def test_a_snapshot_beside_a_busy_owner_is_of_one_instant(tmp_path: Path, resources: StoreResources) -> None:
    path, stop, steps = tmp_path / "partition-0", threading.Event(), [0]
    with BagStoreAt(path, resources) as store:
        write(store, 1)

        def work() -> None:
            while not stop.is_set():
                steps[0] = store.changelog_offset + 1
                write(store, steps[0])
                if steps[0] % 40 == 0:
                    store._db.flush()
                    store._db.compact_range(None, None)

        owner = threading.Thread(target=work)
        owner.start()
        try:
            for k in range(5):
                snapshot(path, tmp_path / f"out-{k}")
        finally:
            stop.set()
            owner.join()
    seen = []
    for k in range(5):
        folder, restored = tmp_path / f"out-{k}", tmp_path / f"partition-{k + 1}"
        manifest = load(folder)
        restore(folder, manifest, restored, resources)
        with BagStoreAt(restored, resources) as store:
            step = store.changelog_offset
            assert step != NONE_APPLIED
            assert store.record == PartitionRecord("space", "day,month", step)
            assert contents(store, USERS) == {(user, 10): (step, step) for user in USERS}
            assert set(store.marks.take(99)) == {USERS[i % len(USERS)] for i in range(1, step + 1)}
            assert (manifest.rows, manifest.marks) == (len(USERS), min(step, len(USERS)))
            seen.append(step)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] <= steps[0], "the owner went on meanwhile"


def test_a_damaged_incomplete_or_unknown_snapshot_is_refused(tmp_path: Path, resources: StoreResources) -> None:
    with BagStoreAt(tmp_path / "partition-0", resources) as store:
        write(store, 1)
    whole = tmp_path / "whole"
    snapshot(tmp_path / "partition-0", whole)
    data = next(whole.glob("default-*.sst"))
    for spoil, message in (
        (lambda folder: (folder / data.name).write_bytes(data.read_bytes()[:-1] + b"\0\0"), "damaged"),
        (lambda folder: (folder / data.name).unlink(), "incomplete"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "cannot be read"),
        (
            lambda folder: (folder / MANIFEST).write_text(
                (whole / MANIFEST).read_text().replace('"version": 1', '"version": 2')
            ),
            "version=2 known=1",
        ),
    ):
        shutil.rmtree(tmp_path / "spoilt", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "spoilt")
        spoil(tmp_path / "spoilt")
        with pytest.raises(SnapshotUnusable, match=message):
            load(tmp_path / "spoilt")
    with pytest.raises(SnapshotUnusable, match="exists already"):
        snapshot(tmp_path / "partition-0", whole)
    with pytest.raises(StoreUnavailable, match="there is no database"):
        snapshot(tmp_path / "nothing", tmp_path / "out")
    assert load(whole).changelog_offset == 1


def test_the_first_format_of_a_manifest_is_read_for_ever(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(
        '{"origin": {"app_id": "a", "partition": 3, "changelog": "a-bags-changelog", "changelog_id": null},'
        '"changelog_offset": 7, "applied_at_s": 1.5, "interest_space_id": "s", "scales": "day", "rows": 2, "marks": 1,'
        '"meta": {"format": "31"}, "files": {"default": {}, "marks": {}}, "version": 1}'
    )
    manifest = load(tmp_path)
    assert (manifest.origin.partition, manifest.changelog_offset, manifest.meta) == (3, 7, {"format": "31"})
