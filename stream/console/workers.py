"""Scrapes the workers' /metrics in a thread of its own, and says what each shows."""

import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from stream.errors import ConfigInvalid
from stream.metrics import OUTCOMES
from stream.operations.scrape import Samples, fetch, quantile, value
from stream.settings import Metrics

_THREADS = 8
_WINDOW_S = 60.0
_FRESHNESS = "lurm_freshness_seconds"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what is bound, seen from this machine


def worker_urls(given: Sequence[str], metrics: Metrics) -> list[str]:
    """What to scrape: what was given, else the worker of these settings. **Raises** `ConfigInvalid`."""
    host = _EVERYWHERE.get(metrics.host, metrics.host)
    urls = [url.rstrip("/") for url in given or [f"http://{host}:{metrics.port}"]]
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", url) or not urlsplit(url).hostname:
            raise ConfigInvalid(f"--worker: http://HOST:PORT is wanted, found {url!r}")
    return urls


class WorkerWatch:
    """Looks at every worker each ``interval_s`` until closed, with the token that their metrics want."""

    def __init__(self, urls: Sequence[str], interval_s: float, token: str = "") -> None:
        self.view: list[dict[str, Any]] = [{"url": url, "error": "not asked yet"} for url in urls]
        self._windows = {url: FreshnessWindow() for url in urls}
        self._interval_s = interval_s
        self._token = token
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lurm-console-workers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; a request in flight is not waited for."""
        self._stopping.set()
        self._thread.join(self._interval_s)

    def _run(self) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            while not self._stopping.is_set():
                self.view = list(pool.map(self._report, self._windows))
                self._stopping.wait(self._interval_s)

    def _report(self, url: str) -> dict[str, Any]:
        try:
            samples = fetch(f"{url}/metrics", self._token)
            recent = self._windows[url].add(samples, time.monotonic())
            return worker_report(url, samples, recent, time.time())
        except (OSError, HTTPException, ValueError) as error:
            return {"url": url, "error": f"no answer: {getattr(error, 'reason', None) or error}"}


def worker_report(url: str, samples: Samples, recent: Samples, now_s: float) -> dict[str, Any]:
    """One worker as its metrics show it; ``recent`` are the freshness histogram's buckets of the last minute."""
    numbers = sorted(int(dict(labels)["partition"]) for name, labels in samples
                     if name == "lurm_ledger_events" and ("outcome", "received") in labels)  # fmt: skip
    model: Mapping[str, str] = next((dict(labels) for name, labels in samples if name == "lurm_model_info"), {})
    return {
        "url": url,
        "error": None,
        "ready": bool(value(samples, "lurm_ready")),
        "model_id": model.get("model_id"),
        "freshness_p50_s": quantile(recent, _FRESHNESS, 0.5),
        "freshness_p99_s": quantile(recent, _FRESHNESS, 0.99),
        "dirty_users": int(value(samples, "lurm_dirty_users")),
        "dirty_oldest_s": value(samples, "lurm_dirty_oldest_seconds"),
        "recovery_remaining_rows": int(value(samples, "lurm_recovery_remaining_rows")),
        "partitions": [_partition(samples, number, now_s) for number in numbers],
    }


def _partition(samples: Samples, number: int, now_s: float) -> dict[str, Any]:
    committed_at_s = value(samples, "lurm_last_commit_timestamp_seconds", partition=str(number))
    return {
        "partition": number,
        "last_commit_age_s": max(0.0, now_s - committed_at_s) if committed_at_s else None,
        "ledger": {
            name: int(value(samples, "lurm_ledger_events", partition=str(number), outcome=name)) for name in OUTCOMES
        },
    }


class FreshnessWindow:
    """The freshness histogram of the last minute: its growth since the newest look that is a minute old."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Samples]] = deque()

    def add(self, samples: Samples, now_s: float) -> Samples:
        """The buckets' growth; none at the first look. A worker that restarted began with nothing."""
        buckets = {key: number for key, number in samples.items() if key[0] == f"{_FRESHNESS}_bucket"}
        if self._looks and any(number < self._looks[-1][1].get(key, 0.0) for key, number in buckets.items()):
            self._looks = deque([(now_s, {})])
        self._looks.append((now_s, buckets))
        while len(self._looks) > 1 and now_s - self._looks[1][0] >= _WINDOW_S:
            self._looks.popleft()
        first = self._looks[0][1]
        return {key: number - first.get(key, 0.0) for key, number in buckets.items()}
