import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from state.bags import sum_pairs
from state.dirty import Mark, MarkColumns
from state.errors import FormatUnknown, StoreUnavailable
from state.options import META, StoreOptions, StoreResources
from state.periods import DAY
from state.record import PartitionRecord, encode_record
from state.rows import RECORD_KEY, encode_keys, encode_values, seq_of
from state.store import BEHIND_S_MAX, NONE_APPLIED, BagStore, Changes

CACHE_BYTES = 32 << 20
SPACE, SCALES = "space", "day,month"


@pytest.fixture
def resources() -> StoreResources:
    return StoreResources(StoreOptions(cache_bytes=CACHE_BYTES))


@pytest.fixture
def store(tmp_path: Path, resources: StoreResources) -> Iterator[BagStore]:
    store = BagStore(tmp_path / "partition-0", resources)
    yield store
    store.close()


def row(user: bytes, day: int, seq: int, count: int = 1) -> tuple[bytes, bytes]:
    one = np.ones(1, np.int64)
    (key,) = encode_keys([user], 0 * one, DAY.code * one, day * one)
    bag = sum_pairs(0 * one, np.array([7], np.uint32), np.array([count], np.uint32), 1)
    (value,) = encode_values(seq * one, seq * one, bag)
    return key, value


def record(next_offset: int, published: int = 0) -> PartitionRecord:
    return PartitionRecord(SPACE, SCALES, next_offset, published=published)


def columns(*marks: Mark) -> MarkColumns:
    return MarkColumns(*np.array(marks, np.int64).T)


def contents(store: BagStore, users: list[bytes]) -> dict[tuple[bytes, int], tuple[int, int]]:
    found, rows = store.read_users(users)
    entries = zip(rows.user, rows.period, rows.seq, rows.bags.counts, strict=True)
    return {(found[user], int(day)): (int(seq), int(count)) for user, day, seq, count in entries}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_replaying_the_changelog_in_any_pieces_gives_what_was_applied(
    store: BagStore, tmp_path: Path, resources: StoreResources, size: int
) -> None:
    old, gone, new = row(b"ann", 10, 0), row(b"ann", 9, 1), row(b"ann", 10, 2, 5)
    transactions: list[tuple[list[tuple[bytes, bytes | None]], list[bytes], PartitionRecord]] = [
        ([old, gone], [b"ann"], record(2)),
        ([row(b"bob", 10, 3)], [b"bob"], record(4)),
        ([new, (gone[0], None)], [b"ann"], record(5, published=2)),
    ]
    changelog: list[tuple[bytes, bytes | None, int]] = []
    for rows, users, after in transactions:
        changelog += [(key, value, 1000) for key, value in rows] + [(RECORD_KEY, encode_record(after), 1000)]
        seq = seq_of(0, after.next_offset - 1)
        marks = store.marks.add(users, columns(Mark(seq, seq, 1000, 10)))
        store.apply(Changes(rows, after, len(changelog) - 1, marks))
    with BagStoreAt(tmp_path / "replayed", resources) as replayed:
        for start in range(0, len(changelog), size):
            piece = changelog[start : start + size]
            replayed.replay(piece, start + len(piece) - 1)
        assert contents(replayed, [b"ann", b"bob"]) == contents(store, [b"ann", b"bob"])
        assert contents(store, [b"ann", b"bob"]) == {(b"ann", 10): (2, 5), (b"bob", 10): (3, 1)}
        assert (replayed.record, replayed.changelog_offset) == (store.record, store.changelog_offset)
        assert set(replayed.marks.take(9)) == {b"ann", b"bob"}


def test_what_is_below_the_published_watermark_is_not_dirty_after_a_replay(store: BagStore) -> None:
    rows = [(*row(b"ann", 10, 1), 1000), (*row(b"bob", 10, 2), 2000)]
    store.replay(rows, 1)
    assert len(store.marks) == 2
    store.replay([(RECORD_KEY, encode_record(record(3, published=2)), 3000)], 2)
    assert store.marks.take(9) == {b"bob": Mark(2, 2, 2000, 10)}


def test_a_watermark_known_beforehand_spares_the_marks_below_it(store: BagStore) -> None:
    store.published = 2
    store.replay([(*row(b"ann", 10, 1), 1000), (*row(b"bob", 10, 2), 2000)], 1)
    assert store.marks.take(9) == {b"bob": Mark(2, 2, 2000, 10)}


def test_a_store_reopened_between_two_changes_and_their_watermark_forgets_nobody(
    tmp_path: Path, resources: StoreResources
) -> None:
    first, second = (*row(b"ann", 10, 1), 1000), (*row(b"ann", 10, 5), 1000)
    only_the_first_is_published = (RECORD_KEY, encode_record(record(6, published=4)), 1000)
    with BagStoreAt(tmp_path / "partition-0", resources) as store:
        store.replay([first], 0)
        store.replay([second], 1)
    with BagStoreAt(tmp_path / "partition-0", resources) as store:
        store.replay([only_the_first_is_published], 2)
        assert set(store.marks.take(9)) == {b"ann"}


def test_a_reopened_store_keeps_its_marks_and_frees_its_lock(tmp_path: Path, resources: StoreResources) -> None:
    path, mark = tmp_path / "partition-0", Mark(1, 1, 1000, 10)
    with BagStoreAt(path, resources) as store:
        store.apply(Changes([row(b"ann", 10, 1)], record(2), 7, store.marks.add([b"ann"], columns(mark))))
        with pytest.raises(StoreUnavailable, match="cannot open the database"):
            BagStore(path, resources)
    with BagStoreAt(path, resources) as store:
        assert (store.record, store.changelog_offset) == (record(2), 7)
        assert store.marks.take(9) == {b"ann": mark}
        store.clear_marks(store.marks.publish([b"ann"]))
    with BagStoreAt(path, resources) as store:
        assert len(store.marks) == 0


def test_a_reopened_store_drops_marks_that_turn_out_to_be_published(tmp_path: Path, resources: StoreResources) -> None:
    path, mark = tmp_path / "partition-0", Mark(1, 1, 1000, 10)
    with BagStoreAt(path, resources) as store:
        store.apply(Changes([row(b"ann", 10, 1)], record(2), 7, store.marks.add([b"ann"], columns(mark))))
    with BagStoreAt(path, resources) as store:
        store.replay([(RECORD_KEY, encode_record(record(2, published=2)), 1000)], 8)
        assert len(store.marks) == 0


def test_the_lock_is_freed_although_rows_were_read(tmp_path: Path, resources: StoreResources) -> None:
    for _ in range(3):
        with BagStoreAt(tmp_path / "partition-0", resources) as store:
            store.apply(Changes([row(b"ann", 10, 1)], record(2), 7))
            assert store.users_after(b"", 9) == store.read_users([b"ann"])[0] == [b"ann"]


def test_a_failed_write_poisons_the_store_and_leaves_what_was_before(tmp_path: Path, resources: StoreResources) -> None:
    path = tmp_path / "partition-0"
    with BagStoreAt(path, resources) as store:
        store.apply(Changes([row(b"ann", 10, 1)], record(2), 7))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            many = [row(b"user-%d" % i, 10, 2) for i in range(20_000)]
            with pytest.raises(StoreUnavailable, match="cannot write to the database"):
                store.apply(Changes(many, record(3), 8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for refused in (
            lambda: store.get([b"key"]),
            lambda: store.read_users([b"ann"]),
            lambda: store.users_after(b"", 1),
            lambda: store.clear_marks([]),
            lambda: store.apply(Changes([], record(3), 8)),
            lambda: store.replay([], 8),
        ):
            with pytest.raises(StoreUnavailable, match="cannot write to the database"):
                refused()
        assert (store.record, store.changelog_offset) == (record(2), 7)
    with BagStoreAt(path, resources) as store:
        assert (store.record, store.changelog_offset) == (record(2), 7)
        assert store.users_after(b"", 9) == [b"ann"]


def test_a_store_behind_for_longer_than_tombstones_are_surely_kept_starts_from_nothing(
    tmp_path: Path, resources: StoreResources
) -> None:
    path = tmp_path / "partition-0"
    with BagStoreAt(path, resources) as store:
        store.apply(Changes([row(b"ann", 10, 1)], record(2), 7))
        applied_at_s = store.applied_at_s
    for away_s, expected in ((BEHIND_S_MAX - 60, 7), (BEHIND_S_MAX + 60, NONE_APPLIED)):
        store = BagStore.open_fresh(path, resources, applied_at_s + away_s)
        assert store.changelog_offset == expected
        store.close()


def test_a_replay_that_is_cut_short_leaves_a_store_as_old_as_what_it_applied(
    tmp_path: Path, resources: StoreResources
) -> None:
    path, old_s = tmp_path / "partition-0", 1_700_000_000
    with BagStoreAt(path, resources) as store:
        key, value = row(b"ann", 10, 1)
        store.replay([(key, value, old_s * 1000)], 7)
        store.replay([], 8)
    for now_s, expected in ((old_s + BEHIND_S_MAX - 60, 8), (old_s + BEHIND_S_MAX + 60, NONE_APPLIED)):
        store = BagStore.open_fresh(path, resources, now_s)
        assert store.changelog_offset == expected
        store.close()


def test_another_format_is_refused(tmp_path: Path, resources: StoreResources) -> None:
    path = tmp_path / "partition-0"
    with BagStoreAt(path, resources) as store:
        store._db.get_column_family(META).put(b"format", b"2")
    with pytest.raises(FormatUnknown, match="version=2 known=1"):
        BagStore(path, resources)


def test_a_walk_meets_every_user_once_in_order(store: BagStore) -> None:
    users = sorted([b"a", b"a\x01", b"a\x01b", b"ab", b"b", b"\x01", b"\xc3\xa9", b"a\xff"])
    rows = [row(user, day, 1) for user in users for day in (1, 2, 3)]
    store.apply(Changes(rows, record(2), 7))
    walked: list[bytes] = []
    while found := store.users_after(walked[-1] if walked else b"", 3):
        walked += found
    assert walked == users
    for user in users:
        assert {key for key, _ in contents(store, [user])} == {user}


def test_users_are_read_from_one_snapshot_in_the_order_asked(store: BagStore) -> None:
    store.apply(Changes([row(b"ann", 10, 1), row(b"ann", 11, 2), row(b"bob", 5, 3)], record(4), 7))
    users, rows = store.read_users([b"bob", b"nobody", b"ann"])
    assert users == [b"bob", b"ann"]
    assert rows.period.tolist() == [5, 10, 11]


def test_a_killed_process_leaves_a_store_that_opens(tmp_path: Path, resources: StoreResources) -> None:
    script = (
        "import os, sys; from pathlib import Path; from state.store import *; from state.options import *\n"
        "from tests.unit.state.test_store import row, record\n"
        "store = BagStore(Path(sys.argv[1]), StoreResources(StoreOptions()))\n"
        "store.apply(Changes([row(b'ann', 10, 1)], record(2), 7)); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "p")], check=False)
    assert done.returncode == -9
    with BagStoreAt(tmp_path / "p", resources) as store:
        assert (store.changelog_offset, store.users_after(b"", 9)) == (7, [b"ann"])


class BagStoreAt:
    """A store that is closed at the end of a block."""

    def __init__(self, path: Path, resources: StoreResources) -> None:
        self._store = BagStore(path, resources)

    def __enter__(self) -> BagStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()
