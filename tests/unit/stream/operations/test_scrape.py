"""Quantiles and sums of scraped samples, from a real registry over real HTTP."""

import math
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from stream.console.workers import WorkerWatch
from stream.operations.scrape import fetch, is_ready, quantile, scrape, value
from stream.worker.health import HealthServer
from tests.workers import wait_until


def test_what_was_observed_is_what_is_scraped() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("waited_seconds", "x", registry=registry, buckets=(1.0, 2.0, 4.0))
    events = Counter("events", "x", ["outcome"], registry=registry)
    for observed in (0.5, 0.5, 1.5, 3.0):
        seconds.observe(observed)
    events.labels("good").inc(3)
    events.labels("bad").inc(1)
    server = HealthServer(("127.0.0.1", 0), registry, live=lambda: True, ready=lambda: False)
    try:
        samples = scrape(server.port)
        assert value(samples, "events_total", outcome="good") == 3
        assert value(samples, "events_total") == 4
        assert quantile(samples, "waited_seconds", 0.5) == pytest.approx(1.0)
        assert quantile(samples, "waited_seconds", 0.75) == pytest.approx(2.0)
        assert quantile(samples, "waited_seconds", 1.0) == pytest.approx(4.0)
        assert not is_ready(server.port)
    finally:
        server.close()
    assert scrape(server.port) == {}


def test_an_empty_histogram_has_no_quantile() -> None:
    assert math.isnan(quantile({}, "waited_seconds", 0.5))


def test_metrics_that_want_a_token_are_read_with_it_alone() -> None:
    registry = CollectorRegistry()
    Counter("events", "x", registry=registry).inc()
    server = HealthServer(("127.0.0.1", 0), registry, lambda: True, lambda: True, token="let-me-in")
    url = f"http://127.0.0.1:{server.port}"
    right, wrong = WorkerWatch([url], 0.05, "let-me-in"), WorkerWatch([url], 0.05)
    try:
        assert value(fetch(f"{url}/metrics", "let-me-in"), "events_total") == 1
        with pytest.raises(HTTPError, match="401"):
            fetch(f"{url}/metrics", "guess")
        wait_until(lambda: right.view[0]["error"] is None)
        wait_until(lambda: "Unauthorized" in (wrong.view[0]["error"] or ""))
    finally:
        right.close()
        wrong.close()
        server.close()
