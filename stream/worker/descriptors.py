"""How many files and connections a worker may have open, raised as far as allowed and shared out over all partitions.

Whoever survives may come to own every partition, so there must be enough for all of them from the start. Where the
limit is too low for `state.open_files_max` per partition, RocksDB gets less and closes files sooner; where it is too
low for the least that works, the worker refuses to start rather than die as the last survivor.
"""

import resource
from contextlib import suppress
from typing import Final

from stream.errors import ConfigInvalid
from stream.settings import Settings

# Libraries, logs, visitors of the metrics, and the connections of the consumers, to a cluster of some ten brokers.
_PROCESS: Final = 256
# Lock, log, manifest, write-ahead log and folder of a database, and what a flush and a compaction write.
_DATABASE: Final = 12
# Two producers: each has one connection to its coordinator, one to the group's and one per leader of its topics.
_PRODUCERS: Final = 10
# RocksDB's own minimum.
_OPEN_FILES_MIN: Final = 20


def raise_limit() -> int:
    """Raise the soft limit of this process, usually 1,024, to the hard one where that is allowed; what holds then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def open_files_max(settings: Settings, limit: int) -> int:
    """Open files that each partition's database may have, so that all partitions together stay below the limit.

    **Raises** `ConfigInvalid` when that is less than a database works with.
    """
    partitions, wanted = settings.topics.partitions, settings.state.open_files_max
    if limit == resource.RLIM_INFINITY:
        return wanted
    fixed = _DATABASE + _PRODUCERS
    share = (limit - _PROCESS) // partitions - fixed
    if share < _OPEN_FILES_MIN:
        raise ConfigInvalid(
            f"too few files may be open for every partition, which one worker may come to own: limit={limit} "
            f"needed={_PROCESS + partitions * (fixed + _OPEN_FILES_MIN)} topics.partitions={partitions}; "
            "raise the hard limit (`ulimit -Hn`, systemd: LimitNOFILE=, Docker: --ulimit nofile=)"
        )
    return min(share, wanted)
