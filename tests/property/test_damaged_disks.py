"""Whatever bytes of a database are damaged: a read gives everything, or says that it cannot."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from state.bags import sum_pairs
from state.caches import Caches, CacheShape
from state.dirty import MarkColumns
from state.errors import StoreCorrupt, StoreUnavailable
from state.history import Rows
from state.options import StoreOptions, StoreResources
from state.periods import DAY
from state.record import PartitionRecord
from state.rows import encode_keys, encode_values
from state.snapshot import Origin, take
from state.store import BagStore, Changes

N_USERS, N_DAYS = 60, 40
USERS = [b"user-%03d" % i for i in range(N_USERS)]
EACH = np.arange(N_USERS)
UNCACHED = Caches.none(N_USERS, CacheShape(b"model-01", 1, 1, 2))
CACHED = Caches.none(N_USERS, CacheShape(b"model-01", 1, 1, 2))
CACHED.head["closed_day"] = N_DAYS - 2


def write(path: Path) -> None:
    """A database in files: rows, marks and caches, several blocks each."""
    n = N_USERS * N_DAYS
    user, day = np.repeat(np.arange(N_USERS), N_DAYS), np.tile(np.arange(N_DAYS), N_USERS)
    numbers = np.random.default_rng(1).integers(0, 1 << 32, 8 * n, dtype=np.uint32)
    bags = sum_pairs(np.repeat(np.arange(n), 8), numbers, np.ones(8 * n, np.int64), n)
    keys = encode_keys(USERS, user, np.full(n, DAY.code), day)
    rows = list(zip(keys, encode_values(np.arange(n), np.arange(n), bags), strict=True))
    with closing(BagStore(path, StoreResources(StoreOptions()))) as store:
        marks = store.marks.add(USERS, MarkColumns(EACH, EACH, EACH, EACH))
        store.apply(Changes(rows, PartitionRecord("space", "day", n), n, marks))
        store.clear_marks([], [(each, numbers[:64].tobytes()) for each in USERS])
        for family in (store._db, store._marks_db, store._caches_db):
            family.flush()


def damage(file: Path, share: float) -> None:
    """Turn 64 bytes around."""
    content = bytearray(file.read_bytes())
    begin = int(share * (len(content) - 64))
    content[begin : begin + 64] = bytes(byte ^ 0xFF for byte in content[begin : begin + 64])
    file.write_bytes(content)


def _summary(rows: Rows) -> object:
    return rows.user.tolist(), rows.period.tolist(), rows.seq.tolist(), rows.bags.interests.tolist()


WAYS: dict[str, Callable[[BagStore], object]] = {
    "rows of users": lambda store: _summary(store.read_users(USERS)[1]),
    "rows by key": lambda store: store.get(encode_keys(USERS, EACH, 0 * EACH + DAY.code, EACH % N_DAYS)),
    "a walk over the users": lambda store: store.users_after(b"", N_USERS + 1),
    "marks": lambda store: store.marks.take(N_USERS),
    "caches": lambda store: store.view().caches(USERS),
    "what is held of a user": lambda store: [store.view().held(user) for user in USERS],
    "newest rows": lambda store: _summary(store.view().rows(USERS, CACHED, windowed=False)[0]),
    "rows that caches leave to read": lambda store: _summary(store.view().rows(USERS, UNCACHED, windowed=False)[0]),
}


def read(path: Path, way: str) -> object:
    """What the store answers, or why it does not; it answers nothing else afterwards."""
    try:
        store = BagStore(path, StoreResources(StoreOptions()))
    except StoreCorrupt as error:
        return error
    with closing(store):
        try:
            return WAYS[way](store)
        except StoreCorrupt as error:
            return error


@pytest.mark.parametrize("way", WAYS)
def test_a_read_gives_everything_or_says_that_a_file_is_damaged(tmp_path: Path, way: str) -> None:
    """A block that cannot be read ends an iterator as the end of the file does."""
    write(tmp_path / "whole")
    expected, n_refused = read(tmp_path / "whole", way), 0
    assert not isinstance(expected, StoreCorrupt)
    for file in sorted((tmp_path / "whole").glob("*.sst")):
        for share in np.arange(0.02, 1, 0.07):
            damaged = tmp_path / f"{file.stem}-{share:.2f}"
            shutil.copytree(tmp_path / "whole", damaged)
            damage(damaged / file.name, share)
            found = read(damaged, way)
            if isinstance(found, StoreCorrupt):
                n_refused += 1
                assert "remove the partition's folder" in str(found)
            else:
                assert found == expected
    assert n_refused > 0


def test_a_store_that_met_a_damaged_file_answers_nothing_more(tmp_path: Path) -> None:
    """What it would write is made from what it read."""
    write(tmp_path)
    damage(max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size), 0.5)
    with closing(BagStore(tmp_path, StoreResources(StoreOptions()))) as store:
        with pytest.raises(StoreCorrupt, match="remove the partition's folder"):
            store.read_users(USERS)
        with pytest.raises(StoreUnavailable):
            store.apply(Changes([], PartitionRecord("space", "day"), 1))


def test_no_snapshot_is_taken_of_a_damaged_disk(tmp_path: Path) -> None:
    write(tmp_path / "store")
    damage(max((tmp_path / "store").glob("*.sst"), key=lambda file: file.stat().st_size), 0.5)
    origin, resources = Origin("app", 0, "changelog", None), StoreResources(StoreOptions())
    with pytest.raises(StoreCorrupt, match="remove the partition's folder"):
        take(tmp_path / "store", tmp_path / "snapshot", origin, resources, lambda *_: None)
    assert not (tmp_path / "snapshot").exists()
