"""How long after its event an embedding is acknowledged, at a steady rate, and what an overload does to it.

One worker encodes every second on real Kafka, beside the producer and the broker on the same machine; users are Zipf,
the model has full size. A tenth of a second of event time lies between two events, so days are as full as a user's are,
and end: at 20,000 events/s one in 43 s. Freshness is the worker's own histogram: Kafka time of a user's first
unpublished event to the acknowledged embedding. The overload is three times the highest rate whose p99 kept the goal.
"""

import asyncio
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

from stream.commands.produce import Keyed, send
from stream.operations.scrape import Samples, quantile, scrape, value
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.bench.ingest import zipf
from tests.bench.worker import FIRST_MS, N_ITEMS, bundle, running, settings_of
from tests.brokers import kafka_home

GOAL_S, RATE = 2.0, 20_000
SUSTAINED = (40_000, 60_000, 80_000, 120_000, 160_000)
_PERIOD_S, _OVERLOAD_S, _STEP_S = 30.0, 60.0, 5.0
_RECOVERY_S_MAX = 600.0
_HISTOGRAM = "lurm_freshness_seconds"


@dataclass
class Load:
    """A producer in a thread of its own, whose rate may change while it runs."""

    settings: Settings
    rate: float
    n_sent: int = 0
    stopped: bool = False
    _rows: Iterator[tuple[int, int, int]] = field(
        default_factory=lambda: zip(
            cycle(zipf(1_000_000).tolist()), cycle(zipf(999_983, N_ITEMS).tolist()), count(FIRST_MS, 100), strict=False
        )
    )

    def _events(self) -> Iterator[Keyed]:
        """Events until the rate is another."""
        rate = self.rate
        while rate == self.rate and not self.stopped:
            for user, item, ts_ms in islice(self._rows, 256):
                yield Keyed(b"u%d" % user, b'{"user_id":"u%d","item_id":"i%d","ts":%d}' % (user, item, ts_ms))

    def _run(self) -> None:
        n_before, partitions = 0, self.settings.topics.partitions

        def progress(n_sent: int) -> None:
            self.n_sent = n_before + n_sent

        while not self.stopped:
            asyncio.run(send(self.settings, self._events(), partitions, self.rate, progress))
            n_before = self.n_sent

    @contextmanager
    def flowing(self) -> Iterator["Load"]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self.stopped = True
            thread.join()


@dataclass(frozen=True)
class Window:
    """What happened between two looks at producer and worker; ``n_cores`` are what the worker took."""

    seconds: float
    sent_per_s: float
    applied_per_s: float
    published_per_s: float
    n_cores: float
    p50_s: float
    p99_s: float
    waiting_events: float
    dirty_users: float

    def __str__(self) -> str:
        return (
            f"{self.sent_per_s:>8,.0f} sent/s {self.applied_per_s:>8,.0f} applied/s {self.published_per_s:>7,.0f} "
            f"published/s, {self.n_cores:4.2f} cores, freshness p50 {self.p50_s:5.2f} s p99 {self.p99_s:6.2f} s, "
            f"{self.waiting_events:>8,.0f} events wait, {self.dirty_users:>6,.0f} users dirty"
        )


class Watch:
    """Looks at the load and the worker."""

    def __init__(self, load: Load, port: int) -> None:
        self._load, self._port = load, port
        self._last = self._look()

    def _look(self) -> tuple[float, int, Samples]:
        return time.monotonic(), self._load.n_sent, scrape(self._port)

    def window(self, seconds: float) -> Window:
        time.sleep(seconds)
        (then_s, then_sent, then), self._last = self._last, self._look()
        now_s, now_sent, now = self._last
        spent_s = now_s - then_s
        new = {key: number - then.get(key, 0.0) for key, number in now.items()}
        applied = value(now, "lurm_events_total", outcome="received")
        return Window(
            spent_s,
            (now_sent - then_sent) / spent_s,
            value(new, "lurm_events_total", outcome="received") / spent_s,
            value(new, "lurm_embeddings_published_total") / spent_s,
            value(new, "lurm_process_cpu_seconds_total") / spent_s,
            quantile(new, _HISTOGRAM, 0.5),
            quantile(new, _HISTOGRAM, 0.99),
            max(0.0, now_sent - applied),
            value(now, "lurm_dirty_users"),
        )


def _sustained(load: Load, watch: Watch) -> int:
    """The highest rate whose p99 keeps the goal; it is left at once."""
    best = RATE
    for rate in SUSTAINED:
        load.rate = rate
        watch.window(_STEP_S)
        window = watch.window(_PERIOD_S / 2)
        print(f"at {rate:>7,} events/s: {window}", flush=True)
        if not window.p99_s <= GOAL_S or window.sent_per_s < 0.9 * rate:
            break
        best = rate
    load.rate = RATE
    _until_fresh(watch)
    return best


def _until_fresh(watch: Watch) -> float:
    """Seconds until the p99 of a second is within the goal and little waits."""
    start_s = time.monotonic()
    while time.monotonic() - start_s < _RECOVERY_S_MAX:
        window = watch.window(1.0)
        if window.p99_s <= GOAL_S and window.waiting_events <= 2 * RATE:
            return time.monotonic() - start_s
    return math.inf


def run(n_events: int, rounds: int) -> None:
    """Steady, then as fast as it goes, then an overload of a minute and the way back."""
    del n_events
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        bundle().save(Path(name) / "bundle")
        settings = settings_of(broker.brokers, Path(name), "bench-freshness", 1.0)
        print(f"\nfreshness: encoding every second, 50,000 users Zipf, D 100,000 H 64 M 10, goal p99 <= {GOAL_S:.0f} s")
        load = Load(settings, RATE)
        with running(settings), load.flowing():
            watch = Watch(load, settings.metrics.port)
            watch.window(_PERIOD_S)
            for _ in range(rounds):
                print(f"at {RATE:>7,} events/s: {watch.window(_PERIOD_S)}", flush=True)
            _overload(load, watch)


def _overload(load: Load, watch: Watch) -> None:
    best = _sustained(load, watch)
    load.rate = 3 * best
    print(f"overload: 3 x {best:,} events/s for {_OVERLOAD_S:.0f} s")
    for _ in range(int(_OVERLOAD_S / _STEP_S)):
        print(f"    {watch.window(_STEP_S)}", flush=True)
    load.rate = RATE
    print(f"back at {RATE:,} events/s: fresh again after {_until_fresh(watch):.0f} s")
    print(f"    {watch.window(_STEP_S)}")
