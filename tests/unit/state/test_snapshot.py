import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        (lambda folder: linked(folder / data.name, data), "not a plain file"),
        (lambda folder: linked(folder / MANIFEST, whole / MANIFEST), "not a plain file"),
        (lambda folder: piped(folder / data.name), "not a plain file"),
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


def linked(file: Path, target: Path) -> None:
    file.unlink()
    file.symlink_to(target)


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "name", ["../{}", "{}/../../{}", "/{}", "..", "", "default-00000.sst\0", "marks-1.sst", "CURRENT"]
)
def test_no_name_in_a_manifest_leads_out_of_its_folder(tmp_path: Path, resources: StoreResources, name: str) -> None:
    """The file that is named is there, and its hash is right."""
    with BagStoreAt(tmp_path / "partition-0", resources) as store:
        write(store, 1)
    snapshot(tmp_path / "partition-0", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    ((own, digest),) = manifest["files"]["default"].items()
    shutil.copy(tmp_path / "out" / own, tmp_path / own)
    manifest["files"]["default"] = {name.format(own, own): digest}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SnapshotUnusable, match="names no file of its own"):
        load(tmp_path / "out")


ODD: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 1 << 70, 0.5, float("nan"), float("inf"), "", "zz", "31", "\0", [], {}, {"a": "b"}]
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taken")
    resources = StoreResources(StoreOptions(cache_bytes=32 << 20, memtable_bytes=8 << 20))
    with BagStoreAt(folder / "partition-0", resources) as store:
        write(store, 1)
    snapshot(folder / "partition-0", folder / "out")
    return folder


@settings(max_examples=60)
@given(data=st.data())
def test_a_spoilt_manifest_is_refused_and_what_stands_there_stays(taken: Path, data: st.DataObject) -> None:
    manifest = json.loads((taken / "out" / MANIFEST).read_text())
    node, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
        node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
    if data.draw(st.booleans()):
        del node[key]
    else:
        node[key] = data.draw(ODD)
    spoilt, there = taken / "spoilt", taken / "there"
    for path in (spoilt, there):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(taken / "out", spoilt)
    there.mkdir()
    (spoilt / MANIFEST).write_text(json.dumps(manifest))
    resources = StoreResources(StoreOptions(cache_bytes=8 << 20, memtable_bytes=8 << 20))
    try:
        restore(spoilt, load(spoilt), there, resources)
    except SnapshotUnusable:
        assert not list(there.iterdir())
        assert not (taken / "restoring-there").exists()
    else:
        with BagStoreAt(there, resources) as store:
            assert (store.changelog_offset, len(store.marks)) == (1, 1)


def test_files_that_rocksdb_refuses_are_refused_as_a_snapshot(tmp_path: Path, resources: StoreResources) -> None:
    with BagStoreAt(tmp_path / "partition-0", resources) as store:
        write(store, 1)
    snapshot(tmp_path / "partition-0", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (own,) = manifest["files"]["default"]
    (tmp_path / "out" / own).write_bytes(b"no table" * 100)
    manifest["files"]["default"][own] = hashlib.sha256(b"no table" * 100).hexdigest()
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SnapshotUnusable, match="cannot be taken in"):
        restore(tmp_path / "out", load(tmp_path / "out"), tmp_path / "partition-1", resources)


def test_the_first_format_of_a_manifest_is_read_for_ever(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(
        '{"origin": {"app_id": "a", "partition": 3, "changelog": "a-bags-changelog", "changelog_id": null},'
        '"changelog_offset": 7, "applied_at_s": 1.5, "interest_space_id": "s", "scales": "day", "rows": 2, "marks": 1,'
        '"meta": {"format": "31"}, "files": {"default": {}, "marks": {}}, "version": 1}'
    )
    manifest = load(tmp_path)
    assert (manifest.origin.partition, manifest.changelog_offset, manifest.meta) == (3, 7, {"format": "31"})
