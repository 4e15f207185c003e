"""What state costs on disk and in memory, through the store's own apply path, and what a long life costs per event.

Bytes written are those of the process's write calls: write-ahead log, flushes and compactions.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lurm_model.interests.codebook import Codebook
from state.bags import Bags
from state.options import StoreOptions, StoreResources
from state.periods import DAY, MONTH, MS_PER_DAY, Scale
from state.record import PartitionRecord
from state.rows import Write, encode_keys, encode_values
from state.store import BagStore, Changes
from stream.partition.ingest import update_rows
from stream.records.events import EventBatch, EventDecoder, Limits

BATCH = 20_000
N_INTERESTS = 100_000
ROWS_PER_USER = 40
TODAY = 20_000  # a day number; 2024-10-04
_RANDOM = np.random.default_rng(0)


def rows(users: Sequence[bytes], scale: Scale, periods: Sequence[int], pairs: int) -> Iterator[Write]:
    """One row per user and period, of so many interests each."""
    n = len(users) * len(periods)
    user = np.repeat(np.arange(len(users)), len(periods))
    keys = encode_keys(users, user, np.full(n, scale.code), np.tile(np.array(periods, np.int64), len(users)))
    offsets = np.arange(n + 1, dtype=np.int64) * pairs
    bags = Bags(offsets, _RANDOM.integers(0, N_INTERESTS, n * pairs).astype(np.uint32), np.ones(n * pairs, np.uint32))
    return zip(keys, encode_values(np.arange(n), np.zeros(n, np.int64), bags), strict=True)


def run(n: int, rounds: int) -> None:
    """Build n rows, then read, reopen and measure."""
    del rounds
    with tempfile.TemporaryDirectory() as folder:
        path, resources = Path(folder) / "partition-0", StoreResources(StoreOptions())
        rss_before, written_before = _status("VmRSS"), _written()
        store, start, put = BagStore(path, resources), time.perf_counter(), 0
        n_users = n // ROWS_PER_USER
        ids = [b"user-%08d" % i for i in range(n_users)]
        # A day at a time, as life goes: a batch holds one day's rows of many users.
        for first in range(0, n_users * ROWS_PER_USER, BATCH):
            numbers = range(first, min(first + BATCH, n_users * ROWS_PER_USER))
            users = [ids[i % n_users] for i in numbers]
            batch = list(rows(users, DAY, [TODAY - ROWS_PER_USER + first // n_users], 3))
            put += sum(len(key) + len(value or b"") for key, value in batch)
            store.apply(Changes(batch, PartitionRecord("space", "day,month", first), first))
        built_s = time.perf_counter() - start
        print(f"\ndisk: {n:,} rows of 3 interests, {n_users:,} users, batches of {BATCH:,}")
        print(
            f"apply {n / built_s:,.0f} rows/s, {built_s:.1f} s; RSS grew by {(_status('VmRSS') - rss_before) >> 20} MiB"
        )
        latencies = {size: _latency(store, ids, size) for size in (1, 1024)}
        for size, (median, p99) in latencies.items():
            print(f"read of {size} users: median {median * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
        store.close()
        del store
        start = time.perf_counter()
        store = BagStore(path, resources)
        print(f"reopened in {time.perf_counter() - start:.2f} s")
        time.sleep(2)  # background compactions
        store._db.flush()
        amplification = (_written() - written_before) / put
        on_disk = sum(file.stat().st_size for file in path.glob("*.sst"))
        print(f"{put / n:.1f} bytes put per row, {on_disk / n:.1f} on disk, {on_disk / n_users:.0f} per user;", end=" ")
        print(f"write amplification {amplification:.2f}; RSS at most {_status('VmHWM') >> 20} MiB")
        store.close()


def _latency(store: BagStore, ids: Sequence[bytes], size: int) -> tuple[float, float]:
    rng, times = np.random.default_rng(1), []
    for _ in range(200 if size == 1 else 30):
        users = [ids[i] for i in rng.integers(0, len(ids), size).tolist()]
        start = time.perf_counter()
        store.read_users(users)
        times.append(time.perf_counter() - start)
    return statistics.median(times), sorted(times)[int(len(times) * 0.99)]


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) << 10


def _written() -> int:
    found = re.search(r"wchar: (\d+)", Path("/proc/self/io").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def run_life(n: int, rounds: int) -> None:
    """One event for users with a month of life and with ten years, rolled up and not."""
    del n
    users = [b"user-%05d" % i for i in range(500)]
    month = list(range(TODAY - 30, TODAY))
    this_month = int(MONTH.of_day(np.array([TODAY]))[0])
    lives = {
        "one month": list(rows(users, DAY, month, 3)),
        "ten years, rolled up": [
            *rows(users, DAY, month, 3),
            *rows(users, MONTH, range(this_month - 120, this_month - 1), 40),
        ],
        "ten years of days": list(rows(users, DAY, range(TODAY - 3650, TODAY), 3)),
    }
    print(f"\nlife: one batch of {BATCH:,} events of today, then all rows of the users read; median of {rounds * 5}")
    ingest, read = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, life in lives.items():
            store = BagStore(Path(folder) / name.replace(" ", "-"), StoreResources(StoreOptions()))
            for start in range(0, len(life), BATCH):
                store.apply(Changes(life[start : start + BATCH], PartitionRecord("space", "day,month", 0), start))
            ingest[name], read[name] = _cost(store, users, rounds * 5)
            store.close()
    for name in lives:
        print(
            f"{name:22} {ingest[name] * 1e6:6.2f} us per event, ratio {ingest[name] / ingest['one month']:.2f};"
            f" read {read[name] * 1e6:7.1f} us per user, ratio {read[name] / read['one month']:.2f}"
        )


def _cost(store: BagStore, users: Sequence[bytes], rounds: int) -> tuple[float, float]:
    """Seconds per event to decode, merge and apply; seconds per user to read all rows."""
    decoder, record = _decoder(), PartitionRecord("space", "day,month", 0)
    ingest, read = [], []
    for k in range(rounds):
        batch = _events(users, k * BATCH)
        start = time.perf_counter()
        update = update_rows(_decode(decoder, batch), record.epoch, store)
        marks = store.marks.add(update.users, update.marks)
        store.apply(Changes(list(zip(update.keys, update.values, strict=True)), record, k, marks))
        ingest.append((time.perf_counter() - start) / BATCH)
        taken = list(store.marks.take(len(users)))
        start = time.perf_counter()
        store.read_users(taken[:200])
        read.append((time.perf_counter() - start) / 200)
        store.clear_marks(store.marks.publish(taken))
    return statistics.median(ingest), statistics.median(read)


def _decoder() -> EventDecoder:
    vectors = np.zeros((10, 4), np.float32)
    codebook = Codebook({f"i{k}": k % 10 for k in range(1000)}, vectors, np.ones(11, np.float32), {}, vectors[:0])
    return EventDecoder(codebook, {}, Limits(value_bytes_max=1000, future_ms_max=86_400_000, age_ms_max=0))


def _events(users: Sequence[bytes], first: int) -> list[Any]:
    now_ms = TODAY * MS_PER_DAY
    found = []
    for offset in range(first, first + BATCH):
        user = users[offset * 7919 % len(users)]
        value = b'{"user_id":"%s","item_id":"i%d","ts":%d}' % (user, offset % 1000, now_ms + offset % 1000)
        found.append(SimpleNamespace(offset=offset, timestamp=now_ms, key=user, value=value, headers=()))
    return found


def _decode(decoder: EventDecoder, records: list[Any]) -> EventBatch:
    return decoder.decode(records, TODAY * MS_PER_DAY)
