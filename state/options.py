"""How a partition's database is opened; the caches are shared by all partitions of a process.

RocksDB forgets most options when an existing database is reopened without naming its column families, so
`open_database` always names them: a reopened store keeps its bloom filters and its share of the cache.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBufferManager

from state.errors import failure

ROWS: Final = "default"
MARKS: Final = "marks"
META: Final = "meta"
CACHES: Final = "caches"
COLUMN_FAMILIES: Final = (ROWS, MARKS, META, CACHES)


@dataclass(frozen=True)
class StoreOptions:
    """Memory and file limits. **Units**: bytes for all partitions together, files per partition."""

    cache_bytes: int = 256 << 20
    memtable_bytes: int = 128 << 20
    open_files_max: int = 512


@dataclass(frozen=True)
class StoreResources:
    """What all databases of one process share."""

    options: StoreOptions
    cache: Cache = field(init=False)
    memtables: WriteBufferManager = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", Cache(self.options.cache_bytes))
        # No stalling: it could block the event loop; RocksDB flushes early instead.
        object.__setattr__(self, "memtables", WriteBufferManager(self.options.memtable_bytes, False))

    def rocksdb_options(self) -> Options:
        """One column family's options."""
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self.cache)
        blocks.set_bloom_filter(10, False)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self.memtables)
        options.set_write_buffer_size(min(32 << 20, self.options.memtable_bytes // 4))
        options.set_max_open_files(self.options.open_files_max)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_keep_log_file_num(2)
        return options


def open_database(path: Path, resources: StoreResources) -> Rdict:
    """Open or create a database with every column family under the same options.

    **Raises** `StoreUnavailable` when it is locked by another process or cannot be read, `StoreCorrupt` when damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    families = {name: resources.rocksdb_options() for name in COLUMN_FAMILIES}
    try:
        return Rdict(str(path), options=resources.rocksdb_options(), column_families=families)
    except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB says
        raise failure("open", error, path) from error
