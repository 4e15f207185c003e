"""The overview joins workers, broker and changelog, and says in sentences what is wrong."""

import math
from typing import Any

import pytest

from state.record import Ledger, PartitionRecord
from stream.console.broker import BrokerView
from stream.console.overview import overview
from stream.console.workers import FreshnessWindow, worker_report, worker_urls
from stream.errors import ConfigInvalid
from stream.kafka.lag import PartitionLag
from stream.metrics import WorkerMetrics
from stream.operations.scrape import Samples
from stream.settings import Metrics

NOW_S = 1_000_000.0
URL = "http://a:9108"


def samples_of(metrics: WorkerMetrics) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def worker(ledgers: dict[int, Ledger], *, url: str = URL, ready: bool = True, oldest_s: float = 0.0) -> dict[str, Any]:
    metrics = WorkerMetrics()
    metrics.ready.set(ready)
    metrics.oldest_mark_s.set(oldest_s)
    for number, ledger in ledgers.items():
        metrics.last_commit.labels(str(number)).set(NOW_S - 4)
        for outcome in ("received", "applied", "skipped", "rejected"):
            metrics.ledger.labels(str(number), outcome).set(getattr(ledger, outcome))
    return worker_report(url, samples_of(metrics), {}, NOW_S)


def lag(number: int, events: int = 0, seconds: float = 0.0) -> PartitionLag:
    return PartitionLag(number, 5, 5 + events, events, seconds)


def test_a_partition_has_its_owners_ledger_and_the_brokers_lag() -> None:
    view = BrokerView([lag(0, 3, 7.0)], NOW_S - 1, None, 0)
    found = overview(view, [worker({0: Ledger(5, 4, 0, 1)})], {}, NOW_S)
    assert found["problems"] == []
    assert found["partitions"] == [
        {
            "partition": 0,
            "owners": [URL],
            "lag_events": 3,
            "lag_s": 7.0,
            "committed": 5,
            "end": 8,
            "last_commit_age_s": 4.0,
            "ledger": {"received": 5, "applied": 4, "skipped": 0, "rejected": 1},
            "balanced": True,
        }
    ]
    assert found["workers"][0]["n_partitions"] == 1


def test_whatever_is_wrong_is_said_once() -> None:
    workers = [
        worker({0: Ledger(5, 4, 0, 0), 1: Ledger()}),
        worker({1: Ledger()}, url="http://b", oldest_s=90),
        worker({}, url="http://c", ready=False),
        {"url": "http://d", "error": "no answer: refused"},
    ]
    record = PartitionRecord("space", "day", ledger=Ledger(2, 2, 0, 0))
    view = BrokerView([lag(0), lag(1), lag(2, 9, 75.0)], NOW_S - 60, None, 0)
    found = overview(view, workers, {2: record}, NOW_S)
    wanted = ["not answered for 60 s", "http://b: a changed user waits for 90 s", "http://c is not ready",
              "http://d: no answer: refused", "Partition 0: the ledger", "Partition 1: several",
              "Partition 2: no worker", "Partition 2: 9 events wait, the first for 75 s"]  # fmt: skip
    assert len(found["problems"]) == len(wanted)
    assert all(part in problem for part, problem in zip(wanted, found["problems"], strict=True)), found["problems"]
    assert found["partitions"][2]["ledger"]["received"] == 2, "the changelog's, where nobody owns it"
    refused = overview(BrokerView([], None, "no broker answered", 0), [], {}, NOW_S)
    assert refused["problems"] == ["The broker: no broker answered"]


def test_freshness_is_that_of_the_last_minute_and_begins_again_with_the_worker() -> None:
    metrics, window = WorkerMetrics(), FreshnessWindow()

    def p50(now_s: float) -> float:
        recent = window.add(samples_of(metrics), now_s)
        return worker_report(URL, samples_of(metrics), recent, NOW_S)["freshness_p50_s"]

    metrics.freshness.observe(200)
    assert math.isnan(p50(0)), "who knows when that was"
    metrics.freshness.observe(0.2)
    assert p50(30) < 1
    assert math.isnan(p50(95)), "nothing was published in the last minute"
    metrics = WorkerMetrics()
    metrics.freshness.observe(50)
    assert p50(96) > 30


def test_workers_are_those_given_else_the_one_of_the_settings() -> None:
    assert worker_urls([], Metrics(host="0.0.0.0", port=7)) == ["http://127.0.0.1:7"]
    assert worker_urls(["https://a:1/w/"], Metrics()) == ["https://a:1/w"]
    for wrong in ("file:///etc/passwd", "a:9108", "http://", "http://u@a:1", "http://a b"):
        with pytest.raises(ConfigInvalid, match="--worker"):
            worker_urls([wrong], Metrics())
