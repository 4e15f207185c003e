"""Random events at a rate, bursts and poison, from several producers.

Event time runs through four months however short the soak, so that windows move and days are rolled up; one event in
ten is months or years late. A producer whose broker was away may not know what was written: what was sent is what the
events topic holds, see `sent_events`, and that must be all that was acknowledged.
"""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.kafka.connection import client_arguments
from stream.operations.replay import read_topic
from stream.settings import Settings
from stream.soak.reference import MS_PER_DAY, PlainEvent, Reference
from stream.testing.bundle import FIRST_DAY, N_INTERESTS

N_USERS: Final = 500
N_DAYS: Final = 120
_LATE_DAYS = 700
_LATE_SHARE, _POISON_SHARE, _UNKNOWN_SHARE = 0.1, 0.01, 0.02
_TICK_S = 0.1
# Far beyond any outage that a soak makes.
_DELIVERY_MS = 600_000
POISONED_USER: Final = "user-1"
_KEY: Final = POISONED_USER.encode()
_POISON: Final[tuple[tuple[bytes | None, bytes | None], ...]] = (
    (_KEY, b"{"),
    (_KEY, b"\xff\x00"),
    (_KEY, None),
    (_KEY, b'{"user_id":"user-1","ts":1}'),
    (_KEY, b'{"user_id":"user-1","item_id":"item-1","ts":"now"}'),
    (_KEY, b'{"user_id":"user-2","item_id":"item-1","ts":1}'),
    (_KEY, b'{"user_id":"user-1","item_id":"item-1","ts":9000000000000000}'),
    (_KEY, b'{"user_id":"user-1","item_id":"item-1","ts":-9000000000000000}'),
    (None, b'{"user_id":"user-1","item_id":"item-1","ts":1}'),
)


_POISON_HEADER: Final = ("poison", b"1")


class _Record(NamedTuple):
    user: bytes
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Sent(NamedTuple):
    """What the events topic holds, counted by the plain reference; ``n_erased`` of the events count no longer."""

    n_events: int
    n_poison: int
    n_erased: int
    reference: Reference


def sent_events(settings: Settings, ends: Mapping[tuple[int, bytes], int] = MappingProxyType({})) -> Sent:
    """Read the events topic; of a partition and user only what is not below their offset in ``ends`` still counts."""
    reference, n_events, n_poison, n_erased = Reference(), 0, 0, 0
    for record in chain.from_iterable(read_topic(settings, settings.topics.events)):
        if _POISON_HEADER in record.headers:
            n_poison += 1
        else:
            n_events += 1
            if record.offset < ends.get((record.partition, record.key), 0):
                n_erased += 1
            else:
                reference.add(_plain(json.loads(record.value)))
    return Sent(n_events, n_poison, n_erased, reference)


def _plain(event: Mapping[str, Any]) -> PlainEvent:
    kind, _, number = event["item_id"].partition("-")
    interest = int(number) % N_INTERESTS if kind == "item" else N_INTERESTS
    return PlainEvent(event["user_id"].encode(), interest, event["ts"])


def value_of(event: PlainEvent) -> bytes:
    """The event as JSON; every other item of an interest, and an item nobody knows for the unknown interest."""
    known = event.interest < N_INTERESTS
    item = f"item-{event.interest + N_INTERESTS * (event.ts_ms % 2)}" if known else f"new-{event.ts_ms % 1000}"
    return json.dumps({"user_id": event.user.decode(), "item_id": item, "ts": event.ts_ms}).encode()


class Traffic:
    """Producers, each in a thread; `stop` waits until everything sent is acknowledged."""

    def __init__(self, settings: Settings, seed: int, rate: float, seconds: float) -> None:
        self.n_acknowledged = 0
        self._settings = settings
        self._rate = rate
        self._seconds = seconds
        self._seed = seed
        self._started_s = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._n_burst = 0
        self._users: set[bytes] = set()
        self._threads: list[threading.Thread] = []

    @property
    def n_users(self) -> int:
        """Users with an acknowledged event."""
        return len(self._users)

    def start(self, n_producers: int = 2) -> None:
        """Begin to send."""
        self._started_s = time.monotonic()
        for number in range(n_producers):
            thread = threading.Thread(
                target=self._run, args=(self._seed + number, self._rate / n_producers), daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def burst(self, n_events: int) -> None:
        """Have this many events sent at once."""
        with self._lock:
            self._n_burst += n_events

    def stop(self) -> None:
        """Send no more, and wait until the broker has answered for what was sent."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int, rate: float) -> None:
        pick = random.Random(seed)  # noqa: S311 - a seed makes it repeatable
        arguments = client_arguments(self._settings.kafka) | {"delivery_timeout_ms": _DELIVERY_MS}
        while not self._stop.wait(_TICK_S):
            try:
                with closing(KafkaProducer(**arguments, acks="all", linger_ms=20)) as client:
                    self._produce(client, pick, rate)
            except KafkaError:
                # The embedded broker forgets its producers when it is stopped: only a new one can go on.
                continue

    def _produce(self, client: KafkaProducer, pick: random.Random, rate: float) -> None:
        last_s = time.monotonic()
        while not self._stop.wait(_TICK_S):
            # At most a second's worth at once, however long the broker was away.
            now_s = time.monotonic()
            n = int(rate * min(1.0, now_s - last_s)) + self._take_burst()
            last_s = now_s
            self._send(client, list(self._records(pick, n)))

    def _take_burst(self) -> int:
        with self._lock:
            n, self._n_burst = self._n_burst, 0
        return n

    def _send(self, client: KafkaProducer, records: list[_Record]) -> None:
        topic = self._settings.topics.events
        futures = [client.send(topic, each.value, each.key, each.headers) for each in records]
        client.flush()
        done = [record for record, future in zip(records, futures, strict=True) if future.succeeded()]
        with self._lock:
            self.n_acknowledged += len(done)
            self._users.update(record.user for record in done)
        for future in futures:
            future.get(timeout=0)

    def _records(self, pick: random.Random, n: int) -> Iterator[_Record]:
        share = min(1.0, (time.monotonic() - self._started_s) / self._seconds)
        today = FIRST_DAY + int(share * N_DAYS)
        for _ in range(n):
            if pick.random() < _POISON_SHARE:
                yield _Record(_KEY, *pick.choice(_POISON), [_POISON_HEADER])
            else:
                event = _event(pick, today)
                yield _Record(event.user, event.user, value_of(event), [])


def _event(pick: random.Random, today: int) -> PlainEvent:
    # A few users do most of it.
    user = f"user-{int(N_USERS * pick.random() ** 3)}"
    late = pick.randrange(1, _LATE_DAYS) if pick.random() < _LATE_SHARE else pick.randrange(3)
    interest = N_INTERESTS if pick.random() < _UNKNOWN_SHARE else pick.randrange(N_INTERESTS)
    return PlainEvent(user.encode(), interest, (today - late) * MS_PER_DAY + pick.randrange(MS_PER_DAY))
