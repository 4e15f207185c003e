"""One worker process under measurement: its bundle, its settings, and what it did, by its metrics and its changelog."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kafka.consumer.fetcher import ConsumerRecord

from lurm_model.bundle import Bundle
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.record import decode_record
from state.rows import RECORD_KEY
from stream.kafka.topics import create_missing
from stream.operations.scrape import is_ready, scrape, value
from stream.settings import App, Encode, Metrics, Model, Settings, State, Topics, Worker
from stream.settings import Kafka as KafkaSettings
from stream.trial.embedded_broker import free_ports
from tests.brokers import environment_of, read_records

N_INTERESTS, N_ITEMS, D_ITEM = 100_000, 200_000, 64
FIRST_MS = 1_700_000_000_000
DEADLINE_S = 300.0
_STAGES = ("decode", "assign", "merge", "store")


def bundle() -> Bundle:
    """An untrained bundle of full size whose codebook knows 200,000 items: speed does not depend on training."""
    items = {f"i{k}": k * 2654435761 % N_INTERESTS for k in range(N_ITEMS)}
    centroids = np.random.default_rng(0).normal(size=(N_INTERESTS, D_ITEM)).astype(np.float32)
    codebook = Codebook(items, centroids, np.ones(N_INTERESTS + 1, np.float32), {}, np.zeros((0, D_ITEM), np.float32))
    config = SmenConfig(codebook.n_interests, D_ITEM, FIRST_MS // 86_400_000)
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


@contextmanager
def running(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker from when it is ready until the block ends."""
    create_missing(settings)
    environment = {"PATH": "/usr/bin:/bin"} | environment_of(settings)
    worker = subprocess.Popen([sys.executable, "-m", "stream.cli", "worker"], env=environment)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not is_ready(settings.metrics.port):
            _refuse_ended(worker, deadline)
            time.sleep(0.1)
        yield worker
    finally:
        worker.terminate()
        worker.wait(60)


def _refuse_ended(worker: "subprocess.Popen[bytes]", deadline: float) -> None:
    if worker.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(f"the worker did not do its work: exit_code={worker.poll()}")


class WorkerRun(NamedTuple):
    """What one worker did; memory before the first event and at its highest, time of the event loop by stage."""

    events_per_s: float
    cpu_us_per_event: float
    changelog_bytes_per_event: float
    base_bytes: int
    peak_bytes: int
    stage_us_per_event: Mapping[str, float]


def run_worker(settings: Settings, n: int) -> WorkerRun:
    """One worker over all events; its rate by the partition records in its changelog: their times and ledgers."""
    create_missing(settings)
    with running(settings) as worker:
        base_bytes, before_s = _memory_bytes(worker.pid, "VmRSS"), cpu_s(worker.pid)
        deadline = time.monotonic() + DEADLINE_S
        while value(scrape(settings.metrics.port), "lurm_events_total", outcome="received") < n:
            _refuse_ended(worker, deadline)
            time.sleep(0.2)
        samples, spent_cpu_s = scrape(settings.metrics.port), cpu_s(worker.pid) - before_s
        peak_bytes = _memory_bytes(worker.pid, "VmHWM")
    spent_s = {stage: value(samples, "lurm_stage_seconds_sum", stage=stage) for stage in _STAGES}
    spent_s["transaction"] = value(samples, "lurm_changelog_seconds_sum")
    records = read_records(settings, settings.changelog_topic, range(settings.topics.partitions))
    stages = {stage: 1e6 * seconds / n for stage, seconds in spent_s.items()}
    cpu_us = 1e6 * spent_cpu_s / n
    return WorkerRun(_rate(records, n), cpu_us, record_bytes(records) / n, base_bytes, peak_bytes, stages)


def record_bytes(records: Sequence[ConsumerRecord]) -> int:
    """Keys and values."""
    return sum(len(record.key or b"") + len(record.value or b"") for record in records)


def cpu_s(pid: int) -> float:
    """Processor time a process has taken, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
