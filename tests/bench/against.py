"""This tree's worker beside an older commit's, in turn on one broker: the same topics, the same events, one run.

    python -m tests.bench against 863e4b6 --rounds 3

Absolute figures of two runs say little where machines differ, also from one minute to the next; of two sides that
alternate the ratio does. The older commit needs `tests.bench.worker` and `tests.bench.freshness` as they were then.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from stream.trial.embedded_broker import ApacheKafka
from tests.bench.ingest import WORKLOADS, Bench
from tests.bench.machine import describe
from tests.brokers import kafka_home

ROOT: Final = Path(__file__).parents[2]
# What runs in each tree, with that tree's own packages.
_INGEST: Final = """
import json, sys
from pathlib import Path
from tests.bench.worker import run_worker, settings_of
brokers, folder, topic, n, interval_s = sys.argv[1:]
run = run_worker(settings_of(brokers, Path(folder), topic, float(interval_s)), int(n))
print(json.dumps({"events_per_s": run.events_per_s, "cpu_us_per_event": run.cpu_us_per_event}))
"""
_FRESHNESS: Final = """
import dataclasses, json, sys, uuid
from pathlib import Path
from tests.bench.freshness import Load, Watch, running
from tests.bench.worker import settings_of
brokers, folder, rate = sys.argv[1:]
settings = settings_of(brokers, Path(folder), f"fresh-{uuid.uuid4().hex[:8]}", 1.0)
load = Load(settings, float(rate))
with running(settings), load.flowing():
    watch = Watch(load, settings.metrics.port)
    watch.window(15)
    found = dataclasses.asdict(watch.window(20))
print(json.dumps({name: found[name] for name in ("published_per_s", "n_cores", "p50_s", "p99_s")}))
"""
_WAYS: Final = {"ingest": 86_400.0, "encoding every second": 1.0}


def main(arguments: Sequence[str]) -> int:
    """Run and print; 1 without a Kafka."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench against", description=__doc__)
    parser.add_argument("commit", help="the older commit")
    parser.add_argument("--events", type=int, default=1_000_000, help="events per run (1000000)")
    parser.add_argument("--rate", type=int, default=8_000, help="events per second for the freshness (8000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, alternating (3)")
    given = parser.parse_args(arguments)
    home = kafka_home()
    if home is None:
        print("against: set KAFKA_HOME to an Apache Kafka distribution", file=sys.stderr)
        return 1
    print(describe())
    with (
        tempfile.TemporaryDirectory() as name,
        _tree(given.commit, Path(name)) as before,
        ApacheKafka(home, Path(name) / "kafka") as broker,
    ):
        sides = {given.commit: before, "this": ROOT}
        bench = Bench(broker.brokers, Path(name))
        for workload, what in WORKLOADS.items():
            bench.fill(workload, given.events)
            for way, interval_s in _WAYS.items():
                command = [_INGEST, broker.brokers, name, f"bench-{workload}", str(given.events), str(interval_s)]
                _compare(f"{way}: {what.name}", sides, command, given.rounds)
        command = [_FRESHNESS, broker.brokers, name, str(given.rate)]
        _compare(f"freshness at {given.rate:,} events/s", sides, command, given.rounds)
    return 0


@contextmanager
def _tree(commit: str, folder: Path) -> Iterator[Path]:
    """A copy of the project as it was."""
    path = folder / "before"
    _git("worktree", "add", "--detach", str(path), commit)
    try:
        yield path
    finally:
        _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)


def _compare(what: str, sides: dict[str, Path], command: Sequence[str], rounds: int) -> None:
    """Run both sides in turn, each first as often as the other; print the medians and their ratios."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            found[side].append(_run(sides[side], command))
    print(f"\n{what}", flush=True)
    (before, this) = found.values()
    for name in this[0]:
        old, new = ([each[name] for each in side] for side in (before, this))
        runs = " ".join(f"{number:.3g}" for number in old), " ".join(f"{number:.3g}" for number in new)
        ratio = statistics.median(new) / statistics.median(old)
        print(f"  {name:18} {statistics.median(new):>12,.2f}  ratio {ratio:.2f}  (before: {runs[0]}; now: {runs[1]})")


def _run(tree: Path, command: Sequence[str]) -> Any:
    """What a side says; it finds its own packages first, since it runs in its own folder."""
    done = subprocess.run([sys.executable, "-c", *command], cwd=tree, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
