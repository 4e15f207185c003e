import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from state.options import MARKS, META, StoreOptions, StoreResources
from state.record import PartitionRecord
from state.store import BagStore, Changes

CACHE_BYTES = 32 << 20
PARTITIONS = ("partition-0", "partition-1")


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[tuple[StoreResources, list[BagStore]]]:
    """Two partitions, opened again as a worker does; what they write now is written under the reopened options."""
    resources = StoreResources(StoreOptions(cache_bytes=CACHE_BYTES))
    for name in PARTITIONS:
        with closing(BagStore(tmp_path / name, resources)) as store:
            fill(store, b"before")
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(BagStore(tmp_path / name, resources))) for name in PARTITIONS]
        for store in stores:
            fill(store, b"after")
        yield resources, stores


def fill(store: BagStore, prefix: bytes) -> None:
    rows = [(b"%s-%d" % (prefix, i), bytes(64)) for i in range(5000)]
    store.apply(Changes(rows, PartitionRecord("space", "day,month", 1), 7, [(key, bytes(32)) for key, _ in rows]))
    for database in (store._db, store._marks_db):
        database.flush()


def test_a_reopened_store_keeps_its_bloom_filters(reopened: tuple[StoreResources, list[BagStore]]) -> None:
    for store in reopened[1]:
        log = (store.path / "LOG").read_text(errors="replace")
        n_families = log.count("Options for column family")
        assert n_families >= 3
        assert len(re.findall(r"filter_policy: bloomfilter", log)) == n_families
        assert set(re.findall(r"cache_index_and_filter_blocks: (\d)", log)) == {"1"}
        options = max(store.path.glob("OPTIONS-*")).read_text()
        assert options.count("filter_policy=bloomfilter") == options.count("[TableOptions/BlockBasedTable") >= 3
        for database in (store._db, store._marks_db):
            properties = database.property_value("rocksdb.aggregated-table-properties")
            found = {key: int(re.findall(rf"{key}=(\d+)", properties)[0]) for key in ("# entries", "filter block size")}
            # Ten bits per key, in the files written before and in those written after.
            assert found["filter block size"] >= found["# entries"] * 10 / 8 >= 10_000 * 10 / 8


def test_a_reopened_store_shares_its_cache_with_the_others(reopened: tuple[StoreResources, list[BagStore]]) -> None:
    resources, stores = reopened
    families = [store._db.get_column_family(name) for store in stores for name in ("default", MARKS, META)]
    for store in stores:
        before = resources.cache.get_usage()
        store.get([b"before-%d" % i for i in range(5000)])
        assert resources.cache.get_usage() > before
        for family in families:
            assert family.property_int_value("rocksdb.block-cache-capacity") == CACHE_BYTES
            assert family.property_int_value("rocksdb.block-cache-usage") == resources.cache.get_usage()
