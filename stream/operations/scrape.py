"""Reading a worker's metrics over HTTP: what the demo, the benchmarks and the tests see is what Prometheus sees."""

import math
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from urllib.error import HTTPError, URLError

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 5.0
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int, host: str = "127.0.0.1") -> Samples:
    """All samples by name and labels; empty while nobody listens there."""
    try:
        return fetch(f"http://{host}:{port}/metrics")
    except OSError:
        return {}


def fetch(url: str, token: str = "") -> Samples:
    """All samples of a page, shown the token if there is one.

    **Raises** `OSError` without an answer, `ValueError` when it is no page of metrics.
    """
    request = urllib.request.Request(url)  # noqa: S310 - whoever gives the URL checks it
    if token:
        # Not sent on to where a page is redirected.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether ``/readyz`` says so."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=_TIMEOUT_S) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (HTTPError, URLError, OSError):
        return False


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of this name that carry these labels; 0 when there is none."""
    wanted = labels.items()
    return sum(number for (found, having), number in samples.items() if found == name and wanted <= having)


def quantile(samples: Samples, histogram: str, q: float) -> float:
    """A quantile of a histogram, interpolated inside its bucket as Prometheus does; NaN when it is empty."""
    buckets = sorted(
        (float(dict(labels)["le"]), number)
        for (name, labels), number in samples.items()
        if name == f"{histogram}_bucket"
    )
    rank = q * buckets[-1][1] if buckets else 0.0
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= rank > 0:
            return lower if math.isinf(upper) else lower + (upper - lower) * (rank - below) / max(count - below, 1.0)
        lower, below = upper, count
    return math.nan
