"""Events per second of one worker process on real Kafka, beside Kafka Streams on the same broker and events.

Ours does its full work on the way in: JSON decoding, day rows for the scales day and month, RocksDB, changelog, dead
letters, ledger, one transaction per batch. Kafka Streams (exactly_once_v2, one thread) keeps day bags only, in RocksDB
with a changelog. Both alternate; the rate is taken between each side's first and last piece of work.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from state.periods import Int64
from stream.commands.produce import Keyed, send
from stream.kafka.topics import create_missing
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.bench.peers.run import PYTHON_PEERS, kafka_streams, n_committed, python_peer
from tests.bench.worker import FIRST_MS, WorkerRun, bundle, record_bytes, run_worker, settings_of
from tests.brokers import kafka_home, read_records

N_USERS = 50_000
_BLOCK = 10_000
_NEVER_S = 86_400


def zipf(n: int, n_users: int = N_USERS) -> Int64:
    """Users of n events: a few of them do most."""
    return np.minimum((np.random.default_rng(7).pareto(1.1, n) * n_users / 50).astype(np.int64), n_users - 1)


def _blocks(n: int, n_users: int) -> Int64:
    """Users of n events: of each 10,000 in a row, this many different ones do equally much."""
    places = np.arange(n)
    return places // _BLOCK * n_users + places % n_users


class Workload(NamedTuple):
    """Whose events they are, and how much later in event time each is than the one before."""

    name: str
    users: Callable[[int], Int64]
    step_ms: Callable[[int], int]


def _second(n: int) -> int:
    del n
    return 1000


WORKLOADS = {
    "zipf": Workload(f"{N_USERS:,} users Zipf, one event a second of event time", zipf, _second),
    "few": Workload("10,000 events of 10 users, then of the next 10", lambda n: _blocks(n, 10), _second),
    "many": Workload("10,000 events of 10,000 users, then of the next", lambda n: _blocks(n, _BLOCK), _second),
    "months": Workload(f"{N_USERS:,} users Zipf, over three turns of the month", zipf, lambda n: 95 * 86_400_000 // n),
}


def events(n: int, workload: Workload) -> Iterator[Keyed]:
    """The events of a workload, items Zipf."""
    items = np.minimum((np.random.default_rng(8).pareto(0.9, n) * 2000).astype(np.int64), 999_999).tolist()
    step_ms = workload.step_ms(n)
    for k, (user, item) in enumerate(zip(workload.users(n).tolist(), items, strict=True)):
        ts_ms = FIRST_MS + step_ms * k
        yield Keyed(b"u%d" % user, b'{"user_id":"u%d","item_id":"i%d","ts":%d,"type":"click"}' % (user, item, ts_ms))


class Sides(NamedTuple):
    """The runs of every side over one workload."""

    streams: list[float]
    ingest: list[WorkerRun]
    encoding: list[WorkerRun]


class Bench:
    """A broker, a bundle and one topic per workload."""

    def __init__(self, brokers: str, folder: Path) -> None:
        self.brokers, self.folder = brokers, folder
        bundle().save(folder / "bundle")

    def settings(self, workload: str, interval_s: float = _NEVER_S) -> Settings:
        return settings_of(self.brokers, self.folder, f"bench-{workload}", interval_s)

    def fill(self, workload: str, n: int) -> None:
        settings = self.settings(workload)
        create_missing(settings)
        sent = events(n, WORKLOADS[workload])
        asyncio.run(send(settings, sent, settings.topics.partitions, None, lambda _: None))

    def measure(self, workload: str, n: int, rounds: int) -> Sides:
        sides = Sides([], [], [])
        for _ in range(rounds):
            sides.streams.append(kafka_streams(self.brokers, f"bench-{workload}", n).events_per_s)
            sides.ingest.append(run_worker(self.settings(workload), n))
            sides.encoding.append(run_worker(self.settings(workload, 1.0), n))
        return sides

    def streams_bytes_per_event(self, workload: str, n: int) -> float:
        """Of Kafka Streams' changelog, over the events that it committed."""
        app_id = kafka_streams(self.brokers, f"bench-{workload}", n).app_id
        settings = self.settings(workload)
        records = read_records(settings, f"{app_id}-bags-changelog", range(settings.topics.partitions))
        return record_bytes(records) / n_committed(self.brokers, app_id)


def run(n: int, rounds: int) -> None:
    """Every workload, beside Kafka Streams: every run, the ratio of the medians, where the time goes, and memory."""
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        bench = Bench(broker.brokers, Path(name))
        for workload, what in WORKLOADS.items():
            bench.fill(workload, n)
            print(f"\ningest: {n:,} events, {what.name}, 4 partitions, Apache Kafka on the same machine", flush=True)
            streams, ingest, encoding = bench.measure(workload, n, rounds)
            _report("Kafka Streams exactly_once_v2, 1 thread, day bags", streams, streams)
            _report("lurm worker, day and month, ingest alone", [each.events_per_s for each in ingest], streams)
            _report(
                "lurm worker, day and month, encoding every second", [run.events_per_s for run in encoding], streams
            )
            stages = ", ".join(f"{stage} {us:.2f}" for stage, us in ingest[-1].stage_us_per_event.items())
            peer_bytes = bench.streams_bytes_per_event(workload, n)
            print(
                f"changelog bytes per event: {ingest[-1].changelog_bytes_per_event:.0f}, Kafka Streams {peer_bytes:.0f}"
            )
            cpu_us = {how: runs[-1].cpu_us_per_event for how, runs in (("ingest", ingest), ("encoding too", encoding))}
            spent = ", ".join(f"{how} {us:.2f}" for how, us in cpu_us.items())
            print(f"us per event by the clock, partitions overlapping: {stages}; processor time of the worker: {spent}")
            _report_memory(bench.settings(workload), [*ingest, *encoding])


def run_peers(n: int, rounds: int) -> None:
    """The Zipf workload beside every peer, on the same broker."""
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        bench = Bench(broker.brokers, Path(name))
        bench.fill("zipf", n)
        print(f"\npeers: up to {n:,} events, {WORKLOADS['zipf'].name}, 4 partitions", flush=True)
        ours = [run_worker(bench.settings("zipf"), n).events_per_s for _ in range(rounds)]
        _report("lurm worker, day and month, ingest alone", ours, ours)
        streams = [kafka_streams(bench.brokers, "bench-zipf", n).events_per_s for _ in range(rounds)]
        _report("Kafka Streams exactly_once_v2, 1 thread, day bags", streams, ours)
        for peer in PYTHON_PEERS:
            if not peer.python.exists():
                print(f"{peer.name}: left out, `make bench-peers` installs it")
                continue
            _report(peer.name, [python_peer(peer, bench.brokers, "bench-zipf", n) for _ in range(rounds)], ours)


def _report_memory(settings: Settings, runs: Sequence[WorkerRun]) -> None:
    """What the worker took beside what its settings allow on top of the loaded model and libraries."""
    state, kafka = settings.state, settings.kafka
    allowed = state.cache_bytes + state.memtable_bytes + state.marks_bytes + kafka.buffer_bytes
    taken = max(run.peak_bytes - run.base_bytes for run in runs)
    print(
        f"memory: {taken >> 20} MiB above the {runs[0].base_bytes >> 20} MiB of a worker without events; settings "
        f"allow {allowed >> 20} MiB (block cache {state.cache_bytes >> 20}, memtables {state.memtable_bytes >> 20}, "
        f"marks {state.marks_bytes >> 20}, fetched {kafka.buffer_bytes >> 20}) and what is made of a batch of "
        f"{kafka.poll_events:,} events"
    )


def _report(name: str, rates: list[float], peer: list[float]) -> None:
    runs = " ".join(f"{rate / 1000:.0f}" for rate in rates)
    ratio = statistics.median(rates) / statistics.median(peer)
    print(f"{name:56} {statistics.median(rates):>10,.0f} events/s  ratio {ratio:.2f}  (runs in k: {runs})", flush=True)
