"""The whole machine on real purchases: train, stream through a worker process, consume, and say what happened.

The embeddings that are probed are read back from their topic as they stood after the third month, so the question
about the fourth is honest. Every process is the one an operator runs; only the broker and the numbers are ours.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.errors import DatasetUnavailable
from lurm_model.evaluation.baselines import raw_bag
from lurm_model.evaluation.evaluate import item_interests, probe_auc
from lurm_model.evaluation.tasks import TA_FENG_CUT_MS, Task, eligible, event_tasks, ta_feng_tasks
from lurm_model.events import Events, UserLabels
from lurm_model.files.datasets import synthetic, write_events
from lurm_model.files.public_data import ta_feng
from lurm_model.progress import Progress
from lurm_model.training.train import TrainOptions, train
from stream.errors import LurmError
from stream.operations.replay import newest_embeddings, newest_records
from stream.operations.scrape import Samples, is_ready, quantile, scrape, value
from stream.settings import ENV_PREFIX, Settings, load
from stream.trial.embedded_broker import free_ports

# The first day of the third month, 2001-01-01: the model has seen November and December.
_TA_FENG_TRAINED_MS = 978_307_200_000
_READY_DEADLINE_S = 120.0
_STALLED_S = 120.0
_POLL_S = 0.5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoData:
    """Events, where training ends and where the future begins, and what is asked about the users."""

    name: str
    events: Events
    tasks: Mapping[str, Task]
    trained_ms: int
    cut_ms: int


@dataclass(frozen=True, slots=True)
class Run:
    """What the stream was seen to do."""

    seconds: float
    samples: Samples
    probes: Mapping[str, Mapping[str, float]]


def demo_data(cache: Path, say: Say, *, made_up: bool) -> DemoData:
    """Ta-Feng, or a synthetic click-stream when it cannot be had or is not wanted."""
    if not made_up:
        try:
            events, labels = ta_feng(cache)
        except DatasetUnavailable as error:
            say(f"{error}\ngoing on with a SYNTHETIC click-stream: its figures say nothing about real users")
        else:
            tasks = ta_feng_tasks(events, labels)
            chosen = {name: tasks[name] for name in ("age_ge_45", "churn")}
            return DemoData("ta-feng", events, chosen, _TA_FENG_TRAINED_MS, TA_FENG_CUT_MS)
    return _synthetic_data(*synthetic(n_users=3_000, n_items=1_000, n_days=120))


def _synthetic_data(events: Events, labels: UserLabels) -> DemoData:
    first, last = int(events.ts_ms[0]), int(events.ts_ms[-1])
    trained_ms, cut_ms = first + (last - first) // 2, first + 3 * (last - first) // 4
    tasks = {name: task for name, task in event_tasks(events, labels, cut_ms).items() if name != "preference"}
    return DemoData("synthetic", events, tasks, trained_ms, cut_ms)


def train_bundle(data: DemoData, folder: Path, progress: Progress) -> float:
    """Make a bundle from the first months; how many seconds it took."""
    start = time.monotonic()
    bundle = train(data.events.where(data.events.ts_ms < data.trained_ms), TrainOptions(), progress)
    bundle.save(folder)
    return time.monotonic() - start


def demo_settings(brokers: str, folder: Path) -> tuple[Settings, dict[str, str]]:
    """Settings of the demo alone, and the environment that gives them to its processes."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    ours = {
        "LURM_APP__ID": "lurm-demo",
        "LURM_KAFKA__BROKERS": brokers,
        "LURM_STATE__DIR": str(folder / "state"),
        "LURM_MODEL__BUNDLE": str(folder / "bundle"),
        "LURM_METRICS__PORT": str(free_ports(1)[0]),
        "LURM_WORKER__INSTANCE": "demo",
        "LURM_WORKER__LOG_LEVEL": "WARNING",
    }
    os.environ.update(ours)
    return load(), dict(os.environ)


@contextmanager
def process(arguments: list[str], environment: Mapping[str, str], output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A `lurm` process of its own, asked to stop at the end and awaited."""
    with output.open("wb") as file:
        child = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "stream.cli", *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def stream_all(
    data: DemoData, settings: Settings, environment: dict[str, str], folder: Path, bar: Callable[[int, int], None]
) -> Run:
    """Stream what is before the cut, probe the embeddings as they stand, then stream the rest."""
    port = settings.metrics.port
    parts = [data.events.ts_ms < data.cut_ms, data.events.ts_ms >= data.cut_ms]
    n_done, seconds, probes = 0, 0.0, {}
    with process(["worker"], environment, folder / "worker.log") as worker:
        _wait_ready(worker, port, folder)
        for number, chosen in enumerate(parts):
            file = folder / f"part-{number + 1}.jsonl"
            write_events(data.events.where(chosen), file)
            n_done += int(chosen.sum())
            start = time.monotonic()
            with process(["produce", str(file)], environment, folder / f"produce-{number + 1}.log") as sender:
                seconds += _wait_applied(worker, sender, port, (n_done, len(data.events)), bar) - start
            _wait_published(worker, port)
            if number == 0:
                probes = probe(data, Bundle.load(folder / "bundle"), settings)
        return Run(seconds, scrape(port), probes)


def probe(data: DemoData, bundle: Bundle, settings: Settings) -> dict[str, dict[str, float]]:
    """AUC of frozen embeddings, as they stand in their topic now, beside the raw bags of interests."""
    published = newest_embeddings(settings)
    users = eligible(data.events, data.cut_ms)
    names = data.events.users
    vectors = np.stack([published[names[u]].vectors.ravel() for u in users.tolist()]).astype(np.float32)
    before = data.events.where(data.events.ts_ms < data.cut_ms)
    interest = item_interests(bundle, data.events)
    bags = raw_bag(before, interest[before.item], bundle.codebook.n_interests)[users]
    return {
        name: {"embedding": _mean_auc(vectors, task, users), "bag": _mean_auc(bags, task, users)}
        for name, task in data.tasks.items()
    }


def _mean_auc(features: Any, task: Task, users: Any) -> float:
    known = task.known[users]
    aucs = [probe_auc(features[known], labels, seed=0) for labels in task.labels[users[known]].T]
    return round(float(np.nanmean(aucs)), 4)


def summarise(data: DemoData, settings: Settings, run: Run, consumed: Mapping[str, int], broker: str) -> dict[str, Any]:
    """What `build/demo/summary.json` says. **Raises** `LurmError` when an event is unaccounted for."""
    ledger = newest_records(settings).ledger
    if not ledger.balanced or ledger.received != len(data.events):
        raise LurmError(f"the ledger does not balance: sent={len(data.events)} {ledger}")
    return {
        "data": data.name,
        "broker": broker,
        "events_received": ledger.received,
        "events_applied": ledger.applied,
        "events_skipped": ledger.skipped,
        "events_rejected": ledger.rejected,
        "events_per_s": round(ledger.received / run.seconds),
        "streaming_s": round(run.seconds, 1),
        **consumed,
        "freshness_p50_s": round(quantile(run.samples, "lurm_freshness_seconds", 0.5), 2),
        "freshness_p99_s": round(quantile(run.samples, "lurm_freshness_seconds", 0.99), 2),
        "probes": run.probes,
    }


def _wait_ready(worker: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    deadline = time.monotonic() + _READY_DEADLINE_S
    while not is_ready(port):
        if worker.poll() is not None or time.monotonic() > deadline:
            raise LurmError(f"the worker did not become ready; see {folder / 'worker.log'}")
        time.sleep(_POLL_S)


def _wait_applied(
    worker: "subprocess.Popen[bytes]",
    sender: "subprocess.Popen[bytes]",
    port: int,
    wanted: tuple[int, int],
    bar: Callable[[int, int], None],
) -> float:
    """Wait until the worker has applied ``wanted[0]`` events; when it did. ``wanted[1]`` is all there will be."""

    def received() -> int:
        return int(value(scrape(port), "lurm_events_total", outcome="received"))

    for n in _moving(worker, received):
        bar(n, wanted[1])
        if n >= wanted[0]:
            return time.monotonic()
        if sender.poll() not in (None, 0):
            raise LurmError("the events could not be sent; see produce-*.log beside the demo's summary")
    raise AssertionError


def _wait_published(worker: "subprocess.Popen[bytes]", port: int) -> None:
    for dirty in _moving(worker, lambda: value(scrape(port), "lurm_dirty_users")):
        if dirty == 0:
            # The gauge is set once a second: what is zero twice was not about to rise.
            time.sleep(2.0)
            if value(scrape(port), "lurm_dirty_users") == 0:
                return


def _moving(worker: "subprocess.Popen[bytes]", read: Callable[[], float]) -> Iterator[Any]:
    """Read again and again, as long as it moves. **Raises** `LurmError` when it does not, or the worker ended."""
    last, since = read(), time.monotonic()
    while worker.poll() is None and time.monotonic() - since < _STALLED_S:
        now = read()
        if now != last:
            last, since = now, time.monotonic()
        yield now
        time.sleep(_POLL_S)
    raise LurmError(f"the worker stopped: exit_code={worker.poll()} last={last}; see worker.log beside the summary")
