"""Events per second of one worker process on real Kafka, beside Kafka Streams on the same broker and events.

Ours does its full work on the way in: JSON decoding, day rows for the scales day and month, RocksDB, changelog, dead
letters, ledger, one transaction per batch. Kafka Streams (exactly_once_v2, one thread) keeps day bags only, in RocksDB
with a changelog. Both alternate; the rate is taken between each side's first and last piece of work.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kafka.consumer.fetcher import ConsumerRecord

from lurm_model.bundle import Bundle
from lurm_model.codebook import Codebook
from lurm_model.config import SmenConfig
from lurm_model.smen import Smen
from state.record import decode_record
from state.rows import RECORD_KEY
from stream.commands.produce import Keyed, send
from stream.embedded_broker import ApacheKafka, free_ports
from stream.scrape import scrape, value
from stream.settings import App, Encode, Metrics, Model, Settings, State, Topics, Worker
from stream.settings import Kafka as KafkaSettings
from stream.topics import create_missing
from tests.brokers import environment_of, kafka_home, read_records

PEER = Path(__file__).parent / "peers" / "KafkaStreamsBag.java"
N_USERS, N_ITEMS, N_INTERESTS, D_ITEM = 50_000, 1_000_000, 100_000, 8
FIRST_MS = 1_700_000_000_000
DEADLINE_S = 300.0


def events(n: int) -> Iterator[Keyed]:
    """Zipf-like users and items, one event a second of event time."""
    rng = np.random.default_rng(7)
    users = np.minimum((rng.pareto(1.1, n) * N_USERS / 50).astype(np.int64), N_USERS - 1).tolist()
    items = np.minimum((rng.pareto(0.9, n) * 2000).astype(np.int64), N_ITEMS - 1).tolist()
    for k, (user, item) in enumerate(zip(users, items, strict=True)):
        value = b'{"user_id":"u%d","item_id":"i%d","ts":%d,"type":"click"}' % (user, item, FIRST_MS + 1000 * k)
        yield Keyed(b"u%d" % user, value)


def bundle() -> Bundle:
    """An untrained bundle whose codebook knows 200,000 items: what ingest costs does not depend on training."""
    items = {f"i{k}": k * 2654435761 % N_INTERESTS for k in range(200_000)}
    centroids = np.random.default_rng(0).normal(size=(N_INTERESTS, D_ITEM)).astype(np.float32)
    codebook = Codebook(items, centroids, np.ones(N_INTERESTS + 1, np.float32), {}, np.zeros((0, D_ITEM), np.float32))
    config = SmenConfig(codebook.n_interests, D_ITEM, FIRST_MS // 86_400_000, ("day", "month"), d_anchor=D_ITEM)
    weights = {name: tensor.numpy() for name, tensor in Smen(config).state_dict().items()}
    return Bundle.build(config, codebook, weights, {}, {})


def settings_of(brokers: str, folder: Path, topic: str, interval_s: float) -> Settings:
    """A worker with names and a disk of its own."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    return Settings(
        app=App(id=name),
        kafka=KafkaSettings(brokers=brokers),
        topics=Topics(events=topic, embeddings=f"{name}-embeddings", dead_letters=f"{name}-dead"),
        state=State(dir=folder / name),
        model=Model(bundle=folder / "bundle", device="cpu"),
        encode=Encode(interval_s=interval_s),
        metrics=Metrics(port=free_ports(1)[0]),
        worker=Worker(instance=name, log_level="WARNING"),
    )


class WorkerRun(NamedTuple):
    """What one worker did; memory before the first event and at its highest."""

    events_per_s: float
    changelog_bytes_per_event: float
    base_bytes: int
    peak_bytes: int


def worker_run(settings: Settings, n: int) -> WorkerRun:
    """One worker over all events; its rate by the partition records in its changelog: their times and ledgers."""
    create_missing(settings)
    environment = {"PATH": "/usr/bin:/bin"} | environment_of(settings)
    worker = subprocess.Popen([sys.executable, "-m", "stream.cli", "worker"], env=environment)
    base_bytes = 0
    try:
        deadline = time.monotonic() + DEADLINE_S
        while value(scrape(settings.metrics.port), "lurm_events_total", outcome="received") < n:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not apply all events: exit_code={worker.poll()}")
            if not base_bytes and scrape(settings.metrics.port):
                base_bytes = _memory_bytes(worker.pid, "VmRSS")
            time.sleep(0.2)
        peak_bytes = _memory_bytes(worker.pid, "VmHWM")
    finally:
        worker.terminate()
        worker.wait(60)
    records = read_records(settings, settings.changelog_topic, range(settings.topics.partitions))
    n_bytes = sum(len(record.key) + len(record.value or b"") for record in records)
    return WorkerRun(_rate(records, n), n_bytes / n, base_bytes, peak_bytes)


def _memory_bytes(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def _rate(records: Sequence[ConsumerRecord], n: int) -> float:
    steps = sorted(
        (record.timestamp, record.partition, decode_record(record.value).ledger.received)
        for record in records
        if record.key == RECORD_KEY
    )
    # What the first batch took before its commit is not seen, so neither are its events.
    first_ms, _, first_events = steps[0]
    return (n - first_events) / ((_last_apply_ms(steps) - first_ms) / 1000)


def _last_apply_ms(steps: list[tuple[int, int, int]]) -> int:
    """When the last event was committed; later records only note what was published."""
    seen: dict[int, int] = {}
    last = 0
    for time_ms, partition, received in steps:
        if received > seen.get(partition, 0):
            seen[partition], last = received, time_ms
    return last


def kafka_streams_rate(brokers: str, topic: str, n: int) -> float:
    """Events per second of Kafka Streams, exactly once, one thread."""
    home = kafka_home()
    command = ["java", "-Xmx2g", "-cp", f"{home}/libs/*", str(PEER), brokers, topic, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    words = done.stdout.split()
    if "events_per_s" not in words:
        raise RuntimeError(f"Kafka Streams did not finish: {done.stderr[-2000:]}")
    return float(words[words.index("events_per_s") + 1])


def run(n: int, rounds: int) -> None:
    """Print every run and the ratio of the medians."""
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        folder = Path(name)
        bundle().save(folder / "bundle")
        settings = settings_of(broker.brokers, folder, "bench-events", 86_400)
        create_missing(settings)
        asyncio.run(send(settings, events(n), settings.topics.partitions, None, lambda _: None))
        print(f"\ningest: {n:,} events, {N_USERS:,} users Zipf, 4 partitions, Apache Kafka on the same machine")
        ours, encoding, peer = [], [], []
        for _ in range(rounds):
            peer.append(kafka_streams_rate(broker.brokers, "bench-events", n))
            ours.append(worker_run(settings_of(broker.brokers, folder, "bench-events", 86_400), n))
            encoding.append(worker_run(settings_of(broker.brokers, folder, "bench-events", 1.0), n))
        _report("Kafka Streams exactly_once_v2, 1 thread, day bags", peer, peer)
        _report("lurm worker, day and month, ingest alone", [each.events_per_s for each in ours], peer)
        _report("lurm worker, day and month, encoding every second", [each.events_per_s for each in encoding], peer)
        print(f"changelog: {ours[0].changelog_bytes_per_event:.0f} bytes per event")
        _report_memory(settings, [*ours, *encoding])


def _report_memory(settings: Settings, runs: Sequence[WorkerRun]) -> None:
    """What the worker took beside what its settings allow on top of the loaded model and libraries."""
    state, kafka = settings.state, settings.kafka
    # Per partition one fetch waits in the client, one is queued, and two are being applied.
    fetched = 4 * kafka.fetch_bytes * settings.topics.partitions
    allowed = state.cache_bytes + state.memtable_bytes + fetched
    taken = max(run.peak_bytes - run.base_bytes for run in runs)
    print(
        f"memory: {taken >> 20} MiB above the {runs[0].base_bytes >> 20} MiB of a worker without events; settings "
        f"allow {allowed >> 20} MiB (block cache {state.cache_bytes >> 20}, memtables {state.memtable_bytes >> 20}, "
        f"fetched {fetched >> 20}) and what is made of a batch of {kafka.poll_events:,} events"
    )


def _report(name: str, rates: list[float], peer: list[float]) -> None:
    runs = " ".join(f"{rate / 1000:.0f}" for rate in rates)
    ratio = statistics.median(rates) / statistics.median(peer)
    print(f"{name:52} {statistics.median(rates):>10,.0f} events/s  ratio {ratio:.2f}  (runs in k: {runs})")
