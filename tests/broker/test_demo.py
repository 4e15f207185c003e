"""The demo as a newcomer runs it, on a small made-up stream, and what its broker holds afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

# The first test waits for the whole demo, which trains.
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
LURM = str(Path(sys.executable).with_name("lurm"))
DEADLINE_S = 600.0


class Demo:
    """A finished demo whose broker still runs."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())

    def lurm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [LURM, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.lurm(*arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    output = (folder / "output").open("w+")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LURM_")}
    command = [LURM, "demo", "--synthetic", "--keep", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=clean)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while "LURM_KAFKA__BROKERS=" not in (text := (folder / "output").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.5)
        words = next(line for line in text.splitlines() if "export LURM_APP__ID" in line).split()[1:]
        yield Demo(folder, clean | dict(word.split("=", 1) for word in words))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        output.close()


def test_the_ledger_of_the_summary_balances_with_what_was_sent(demo: Demo) -> None:
    sent = sum(len(file.read_text().splitlines()) for file in demo.folder.glob("part-*.jsonl"))
    summary = demo.summary
    assert summary["events_received"] == sent
    assert summary["events_applied"] + summary["events_skipped"] + summary["events_rejected"] == sent
    assert summary["embeddings_consumed"] >= summary["users_encoded"] > 0
    assert 0 < summary["freshness_p50_s"] <= summary["freshness_p99_s"]
    assert summary["data"] == "synthetic"
    for task in summary["probes"].values():
        assert 0.5 < task["embedding"] <= 1


def test_exported_bags_are_the_counts_of_the_file(demo: Demo) -> None:
    interest = {item["item_id"]: item["interest"] for item in demo.lines("export", "items")}
    events = [json.loads(line) for file in demo.folder.glob("part-*.jsonl") for line in file.read_text().splitlines()]
    days = [datetime.fromtimestamp(event["ts"] / 1000, UTC).date() for event in events]
    newest: dict[str, date] = {}
    for event, day in zip(events, days, strict=True):
        newest[event["user_id"]] = max(day, newest.get(event["user_id"], day))
    expected: dict[tuple[str, str, str], Counter[str]] = {}
    for event, day in zip(events, days, strict=True):
        # Items that the codebook does not know are counted by their attributes, which only it can judge.
        word = str(interest.get(event["item_id"], "by attributes"))
        user = event["user_id"]
        expected.setdefault((user, "month", f"{day:%Y-%m}"), Counter())[word] += 1
        window = (newest[user].replace(day=1) - timedelta(days=1)).replace(day=1)
        if day >= window:
            expected.setdefault((user, "day", day.isoformat()), Counter())[word] += 1
    exported = {(row["user_id"], row["scale"], row["period"]): row["interests"] for row in demo.lines("export", "bags")}
    assert set(exported) == set(expected)
    unknown = sum(bag["by attributes"] for bag in expected.values())
    for key, bag in expected.items():
        if not bag.pop("by attributes", 0):
            assert exported[key] == bag, key
        assert all(exported[key][word] >= count for word, count in bag.items()), key
    assert sum(map(sum, (bag.values() for bag in exported.values()))) == unknown + sum(
        map(sum, (bag.values() for bag in expected.values()))
    )


def test_every_published_embedding_is_the_encoding_of_its_rows(demo: Demo) -> None:
    done = demo.lurm("verify", "--sample", "1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "different" in done.stdout


def test_consume_prints_five_embeddings(demo: Demo) -> None:
    done = demo.lurm("consume", "--from-beginning", "--max", "5")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert all("shape=10x64" in line and "norm=" in line for line in done.stdout.splitlines())


def test_inspect_shows_a_user_and_the_ledger(demo: Demo) -> None:
    event = json.loads((demo.folder / "part-1.jsonl").read_text().splitlines()[0])
    shown = demo.lurm("inspect", event["user_id"])
    assert shown.returncode == 0, shown.stderr
    assert event["user_id"] in shown.stdout
    assert demo.lurm("inspect", "--ledger").returncode == 0
