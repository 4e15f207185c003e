"""Rows per second of a recovery: the store's replay alone, beside a plain one.

The plain side does the same with one Python loop: decode each record's header, merge the user's mark, write both.
"""

import asyncio
import gc
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rocksdict import WriteBatch

from state.bags import Bags
from state.dirty import Mark
from state.options import MARKS, StoreOptions, StoreResources, open_database
from state.periods import DAY
from state.record import PartitionRecord, decode_record, encode_record
from state.replay import Record
from state.rows import RECORD_KEY, encode_keys, encode_values, user_of
from state.snapshot import Origin, load, restore, take
from state.store import BagStore
from stream.kafka.topics import create_missing
from stream.kafka.transactions import TransactionalProducer
from stream.records.outgoing import Outgoing
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.bench.worker import bundle, cpu_s, settings_of
from tests.brokers import environment_of, kafka_home

_RECOVERED = re.compile(r"recovered: .* replayed_rows=(\d+) recovery_s=([\d.]+)")
N_USERS, N_DAYS, N_INTERESTS, FIRST_DAY = 50_000, 30, 100_000, 20_000
BATCH_ROWS = 20_000
_HEADER = struct.Struct("<qq")
_PERIOD = struct.Struct(">I")


def changelog(n: int, *, is_published: bool) -> Iterator[list[Record]]:
    """Batches of day rows of one to five interests, each closed by its partition record."""
    rng = np.random.default_rng(0)
    users = [b"user-%07d" % i for i in range(N_USERS)]
    for start in range(0, n, BATCH_ROWS):
        code = np.unique((rng.integers(0, N_USERS, BATCH_ROWS) << 32) | rng.integers(0, N_DAYS, BATCH_ROWS))
        rows, day = len(code), FIRST_DAY + (code & 0xFFFFFFFF)
        keys = encode_keys(users, code >> 32, np.full(rows, DAY.code), day)
        offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 6, rows))])
        interests = rng.integers(0, N_INTERESTS, offsets[-1]).astype(np.uint32)
        bags = Bags(offsets, interests, np.ones(len(interests), np.uint32))
        values = encode_values(start + np.arange(rows), day * 86_400_000, bags)
        published = start + BATCH_ROWS if is_published else 0
        record = PartitionRecord("space", "day,month", start + BATCH_ROWS, published=published)
        yield [
            *((key, value, 1000) for key, value in zip(keys, values, strict=True)),
            (RECORD_KEY, encode_record(record), 1000),
        ]


def ours(path: Path, batches: list[list[Record]]) -> None:
    """`BagStore.replay`."""
    store, offset = BagStore(path, StoreResources(StoreOptions())), -1
    for batch in batches:
        offset += len(batch)
        store.replay(batch, offset)
    store.close()


def plain(path: Path, batches: list[list[Record]]) -> None:
    """The same, one record at a time."""
    database = open_database(path, StoreResources(StoreOptions()))
    family, marks, watermark = database.get_column_family_handle(MARKS), dict[bytes, Mark](), 0
    for records in batches:
        batch = WriteBatch(raw_mode=True)
        for key, value, time_ms in records:
            if value is None:
                batch.delete(key)
                continue
            batch.put(key, value)
            if key == RECORD_KEY:
                watermark = decode_record(value).published
                for user in [user for user, mark in marks.items() if mark.newest_seq < watermark]:
                    del marks[user]
                    batch.delete(user, family)
                continue
            seq = _HEADER.unpack_from(value)[0]
            if seq >= watermark:
                user, day = user_of(key), _PERIOD.unpack(key[-4:])[0] - 2**31
                mark = Mark(seq, seq, time_ms, day)
                marks[user] = marks[user].then(mark) if user in marks else mark
                batch.put(user, marks[user].encode(), family)
        database.write(batch)
    database.close()


def run(n: int, rounds: int) -> None:
    """Print the medians of both sides and their ratio."""
    print(f"\nrestore: {n:,} changelog rows of {N_USERS:,} users into an empty store, batches of {BATCH_ROWS:,}")
    for is_published in (True, False):
        batches = list(changelog(n, is_published=is_published))
        rates = {side: [_rate(side, batches) for _ in range(rounds)] for side in (plain, ours)}
        base = sorted(rates[plain])[rounds // 2]
        for side, found in rates.items():
            rate = sorted(found)[rounds // 2]
            print(
                f"{side.__name__:6} {'published before' if is_published else 'nothing published':18} "
                f"{rate:>10,.0f} rows/s  ratio {rate / base:.2f}"
            )


def _rate(side: Callable[[Path, list[list[Record]]], None], batches: list[list[Record]]) -> float:
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        side(Path(folder) / "partition-0", batches)
        return sum(map(len, batches)) / (time.perf_counter() - start)


async def _fill(settings: Settings, n: int, interest_space_id: str) -> None:
    """A changelog as a worker leaves it, everything published, and n rows in all."""
    partitions = range(settings.topics.partitions)
    producers = [TransactionalProducer(settings.kafka, f"fill-{number}", number) for number in partitions]
    await asyncio.gather(*(each.start() for each in producers))
    end = encode_record(PartitionRecord(interest_space_id, "day,month", published=n + 1))
    for k, batch in enumerate(changelog(n, is_published=True)):
        rows = [Outgoing(key, value) for key, value, _ in batch[:-1]] + [Outgoing(RECORD_KEY, end)]
        await producers[k % len(producers)].transact("fill", {settings.changelog_topic: rows}, int(time.time() * 1000))
    await asyncio.gather(*(each.stop() for each in producers))


def recovery_rate(settings: Settings) -> tuple[float, float]:
    """Rows per second, and per second of its CPU time, of a worker on an empty disk, from assignment to recovered."""
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir, ignore_errors=True)
    environment = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    } | environment_of(settings)
    command = [sys.executable, "-m", "stream.cli", "worker"]
    said: list[str] = []
    before_s = 0.0
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        try:
            for line in worker.stderr:
                said.append(line)
                if "assigned:" in line:
                    before_s = cpu_s(worker.pid)
                if found := _RECOVERED.search(line):
                    return int(found[1]) / float(found[2]), int(found[1]) / (cpu_s(worker.pid) - before_s)
        finally:
            worker.terminate()
    raise RuntimeError(f"the worker ended before it recovered: {''.join(said)}")


def run_worker(n: int, rounds: int) -> None:
    """A real worker's recovery from real Kafka."""
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        folder = Path(name)
        made = bundle()
        made.save(folder / "bundle")
        settings = settings_of(broker.brokers, folder, "bench-events", 86_400)
        worker = settings.worker.model_copy(update={"log_level": "INFO"})
        settings = settings.model_copy(update={"worker": worker})
        create_missing(settings)
        asyncio.run(_fill(settings, n, made.codebook.interest_space_id))
        print(f"\nrecovery: a worker on an empty disk, changelog of {n:,} rows in 4 partitions, Apache Kafka beside it")
        rates = [recovery_rate(settings) for _ in range(rounds)]
        for what, found in zip(("second", "second of the worker's CPU time"), zip(*rates, strict=True), strict=True):
            runs = " ".join(f"{rate / 1000:.0f}" for rate in found)
            print(f"median {sorted(found)[rounds // 2]:,.0f} rows per {what} (runs in k: {runs})")


def run_snapshot(n: int, rounds: int) -> None:
    """A snapshot put back, hashes and all, beside replaying the changelog that made the state."""
    batches = list(changelog(n, is_published=True))
    rates: dict[str, list[float]] = {"replay": [], "snapshot": [], "restore": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            path, out, back = (Path(name) / each / "partition-0" for each in ("state", "snapshot", "restored"))
            resources = StoreResources(StoreOptions())
            start = time.perf_counter()
            ours(path, batches)
            rates["replay"].append(time.perf_counter() - start)
            start = time.perf_counter()
            take(path, out, Origin("bench", 0, "changelog", None), resources, lambda *_: None)
            rates["snapshot"].append(time.perf_counter() - start)
            start = time.perf_counter()
            restore(out, load(out), back, resources)
            rates["restore"].append(time.perf_counter() - start)
    print(f"\nsnapshot: the state of {n:,} changelog rows")
    base = sorted(rates["replay"])[rounds // 2]
    for what, seconds in rates.items():
        median = sorted(seconds)[rounds // 2]
        print(f"{what:8} {median:6.2f} s  ratio {base / median:.2f}")
