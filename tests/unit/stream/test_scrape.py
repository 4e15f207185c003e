"""Quantiles and sums of scraped samples, from a real registry over real HTTP."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from stream.health import HealthServer
from stream.scrape import is_ready, quantile, scrape, value


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
