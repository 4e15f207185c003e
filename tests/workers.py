"""Whole workers for tests: the real process, random events and what Kafka must hold after them.

What counts is only what stands in Kafka: bags are read from the changelog, embeddings from their topic, and both are
compared with the plain reference, whatever happened to workers and brokers meanwhile.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from lurm_model.bundle import Bundle
from lurm_model.codebook import Codebook
from lurm_model.config import SmenConfig
from lurm_model.encoder import Encoder
from lurm_model.smen import Smen
from state.history import resolve
from state.periods import MS_PER_DAY, SCALES, parse_scales
from state.record import Ledger, PartitionRecord, decode_record
from state.rows import RECORD_KEY, decode_header, decode_rows, user_of
from stream.commands.verify import relative_error
from stream.connection import consumer_arguments
from stream.embedding_record import Embedding, Erased, decode
from stream.failpoints import VARIABLE
from stream.settings import Encode, Metrics, Model, Settings, State, Worker
from stream.topics import create_missing, end_offsets
from tests.brokers import environment_of, fresh_settings, producer, read_records
from tests.plain import Bags, PlainEvent, bags

LURM = Path(sys.executable).with_name("lurm")
N_INTERESTS = 20
FIRST_DAY = 20_000  # 2024-10-04
DEADLINE_S = 60.0
# Of the length of a user's vectors: float32 rounding, which depends on who else is in a batch.
TOLERANCE = 1e-5
_PORT = re.compile(r"serving metrics: .*:(\d+)$", re.MULTILINE)


def tiny_bundle(model_seed: int = 0, space_seed: int = 0, scales: str = "day,month") -> Bundle:
    """A bundle of 20 interests; interest i has the items ``item-i`` and ``item-(i + 20)``."""
    rng = np.random.default_rng(space_seed)
    centroids = rng.normal(size=(N_INTERESTS, 8)).astype(np.float32)
    items = {f"item-{i}": i % N_INTERESTS for i in range(2 * N_INTERESTS)}
    codebook = Codebook(items, centroids, np.ones(N_INTERESTS + 1, np.float32), {}, np.zeros((0, 8), np.float32))
    names = tuple(scale.name for scale in parse_scales(scales))
    config = SmenConfig(codebook.n_interests, 8, FIRST_DAY, names, n_anchors=4, n_recurrent=2, d_anchor=8)
    model_rng = np.random.default_rng(model_seed)
    weights = {
        name: model_rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in Smen(config).state_dict().items()
    }
    return Bundle.build(config, codebook, weights, {}, {})


def worker_settings(brokers: str, folder: Path, bundle: Path, **sections: Any) -> Settings:
    """Settings of a first worker with fresh names, its topics made; quick cycles, a static member id."""
    defaults = {
        "state": State(dir=folder / "state"),
        "model": Model(bundle=bundle, device="cpu"),
        "encode": Encode(interval_s=0.2),
        "metrics": Metrics(port=0),
        "worker": Worker(instance="a"),
    }
    settings = fresh_settings(brokers, **(defaults | sections))
    create_missing(settings)
    return settings


def second(settings: Settings, name: str = "b") -> Settings:
    """The same application on another worker: a disk and a member id of its own."""
    assert settings.state.dir is not None
    state = settings.state.model_copy(update={"dir": settings.state.dir.with_name(f"state-{name}")})
    instance = name if settings.worker.instance else ""
    worker = settings.worker.model_copy(update={"instance": instance})
    return settings.model_copy(update={"state": state, "worker": worker})


class WorkerProcess:
    """One `lurm worker`; signals go to its own pid only, and it is gone when the context is left."""

    def __init__(self, settings: Settings, log: Path, command: Sequence[str | Path] = (LURM, "worker")) -> None:
        self.settings = settings
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._start_of_log = 0

    def start(self, failpoint: str | None = None) -> Self:
        """Start the process, perhaps with a failpoint; its output is appended to the log."""
        assert self.returncode is not None or self._process is None, "it runs already"
        self._start_of_log = self.log.stat().st_size if self.log.exists() else 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LURM_")}
        environment |= environment_of(self.settings) | {"OMP_NUM_THREADS": "1"}
        if failpoint is not None:
            environment[VARIABLE] = failpoint
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def ready(self, deadline_s: float = DEADLINE_S) -> Self:
        """Start unless it runs, and wait until it answers that it is ready."""
        if self._process is None or self.returncode is not None:
            self.start()
        wait_until(lambda: self.returncode is not None or self.get("/readyz")[0] == 200, deadline_s, self.output)
        assert self.returncode is None, self.output()
        return self

    def output(self) -> str:
        """What it printed since its last start."""
        return self.log.read_bytes()[self._start_of_log :].decode(errors="replace") if self.log.exists() else ""

    @property
    def port(self) -> int | None:
        """Where it serves metrics, once it does."""
        found = _PORT.search(self.output())
        return int(found.group(1)) if found else None

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page; 0 while nobody answers."""
        if self.port is None:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs or never ran."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The process it runs as."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it was halted by SIGSTOP."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit code, once it ended."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it does not end:\n{self.output()}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Traffic:
    """Random events of the tiny bundle's items, remembered as they were sent."""

    def __init__(self, settings: Settings, seed: int, prefix: str = "user") -> None:
        self.settings = settings
        self.sent: list[PlainEvent] = []
        self._random = random.Random(seed)
        self._prefix = prefix
        print(f"traffic: seed={seed}")

    def send(self, n: int) -> None:
        """Send n random events, all acknowledged when this returns."""
        self.send_these([self._event() for _ in range(n)])

    def send_these(self, events: Sequence[PlainEvent]) -> None:
        """Send these events, all acknowledged when this returns."""
        with producer(self.settings) as client:
            for event in events:
                client.send(self.settings.topics.events, value_of(event), event.user)
            client.flush()
        self.sent += events

    @contextmanager
    def flowing(self, per_s: float) -> Iterator[None]:
        """Keep sending while the block runs, and wait at its end for what was sent."""
        stop, failures = threading.Event(), []

        def flow() -> None:
            try:
                with producer(self.settings) as client:
                    while not stop.wait(0.05):
                        events = [self._event() for _ in range(max(1, int(per_s / 20)))]
                        for event in events:
                            client.send(self.settings.topics.events, value_of(event), event.user)
                        client.flush()
                        self.sent += events
            except Exception as error:  # noqa: BLE001 - raised again in the test's thread
                failures.append(error)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failures, failures

    def _event(self) -> PlainEvent:
        pick = self._random
        user = f"{self._prefix}-{int(60 * pick.random() ** 2)}"
        day = FIRST_DAY + pick.randrange(40)
        return PlainEvent(user.encode(), pick.randrange(N_INTERESTS), day * MS_PER_DAY + pick.randrange(MS_PER_DAY))


def value_of(event: PlainEvent) -> bytes:
    """The event as JSON; every other item of an interest."""
    item = event.interest + N_INTERESTS * (event.ts_ms % 2)
    return json.dumps({"user_id": event.user.decode(), "item_id": f"item-{item}", "ts": event.ts_ms}).encode()


def wait_until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S, explain: Callable[[], Any] = str) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {deadline_s} s in vain: {explain()}"
        time.sleep(0.1)


def is_applied(settings: Settings, share: float = 1.0) -> bool:
    """Whether this share of the source is committed by the group."""
    wanted = share * sum(end_offsets(settings, settings.topics.events).values())
    partitions = [TopicPartition(settings.topics.events, number) for number in range(settings.topics.partitions)]
    consumer = KafkaConsumer(**consumer_arguments(settings.kafka) | {"group_id": settings.app.id})
    try:
        return sum(consumer.committed(each) or 0 for each in partitions) >= wanted
    finally:
        consumer.close(autocommit=False)


def wait_applied(settings: Settings, *workers: WorkerProcess, share: float = 1.0) -> None:
    """Wait until this share of the source is committed; fails at once when one of the workers ended."""

    def applied() -> bool:
        for worker in workers:
            assert worker.returncode is None, worker.output()
        return is_applied(settings, share)

    wait_until(applied, explain=lambda: [worker.output() for worker in workers])


class Changelog:
    """What the changelog says: every committed record in order, and the newest of every key."""

    def __init__(self, settings: Settings) -> None:
        numbers = range(settings.topics.partitions)
        self.records: list[ConsumerRecord] = read_records(settings, settings.changelog_topic, numbers)
        self.rows: dict[bytes, bytes] = {}
        self.partitions: dict[int, PartitionRecord] = {}
        for record in self.records:
            if record.key == RECORD_KEY:
                self.partitions[record.partition] = decode_record(record.value)
            elif record.value is None:
                self.rows.pop(record.key, None)
            else:
                self.rows[record.key] = record.value

    @property
    def n_deleted(self) -> int:
        """Rows that were deleted, by roll-ups or erasures."""
        return sum(each.value is None for each in self.records)

    @property
    def ledger(self) -> Ledger:
        """The sum over all partitions."""
        return sum((each.ledger for each in self.partitions.values()), Ledger())

    def bags(self, scales: str = "day,month") -> Bags:
        """As `tests.plain.bags` gives them."""
        keys = sorted(self.rows)
        users, rows = decode_rows(keys, [self.rows[key] for key in keys])
        found: dict[tuple[bytes, str, str], dict[int, int]] = {}
        for name, periods in resolve(rows, parse_scales(scales), len(users)).items():
            bounds = periods.bags.offsets.tolist()
            for i, (user, period) in enumerate(zip(periods.user, periods.period, strict=True)):
                pairs = slice(bounds[i], bounds[i + 1])
                interests, counts = periods.bags.interests[pairs].tolist(), periods.bags.counts[pairs].tolist()
                found[users[user], name, SCALES[name].label(int(period))] = dict(zip(interests, counts, strict=True))
        return found

    def full_encode(self, bundle: Bundle) -> dict[bytes, NDArray[np.float32]]:
        """Everybody's vectors, from nothing but the bags."""
        keys = sorted(self.rows)
        users, rows = decode_rows(keys, [self.rows[key] for key in keys])
        vectors = Encoder(bundle, "cpu").encode(resolve(rows, bundle.scales, len(users)), len(users))
        return dict(zip(users, vectors, strict=True))

    def newest_seq(self) -> dict[bytes, int]:
        """Each user's newest ``seq``."""
        newest: dict[bytes, int] = {}
        for key, seq in zip(self.rows, decode_header(list(self.rows.values()))[0].tolist(), strict=True):
            newest[user_of(key)] = max(newest.get(user_of(key), 0), seq)
        return newest

    def never_falls(self) -> bool:
        """No row was ever overwritten by an older one, and no partition's position went back."""
        newest: dict[tuple[int, bytes], int] = {}
        for record in self.records:
            if record.value is None:
                continue
            is_row = record.key != RECORD_KEY
            seq = int(decode_header([record.value])[0][0]) if is_row else decode_record(record.value).next_offset
            if seq < newest.get((record.partition, record.key), 0):
                return False
            newest[record.partition, record.key] = seq
        return True


def embeddings(settings: Settings) -> list[Embedding]:
    """Every embedding ever published, in order within a partition."""
    return [each for each in all_published(settings) if isinstance(each, Embedding)]


def all_published(settings: Settings) -> list[Embedding | Erased]:
    """Every embedding and erasure ever published, in order within a partition."""
    numbers = range(settings.topics.partitions)
    return [decode(record) for record in read_records(settings, settings.topics.embeddings, numbers)]


def newest_published(settings: Settings) -> dict[bytes, Embedding]:
    """The last embedding of everybody who was not erased since."""
    newest: dict[bytes, Embedding] = {}
    for each in all_published(settings):
        if isinstance(each, Erased):
            newest.pop(each.user_id.encode(), None)
        else:
            newest[each.user_id.encode()] = each
    return newest


def check_exact(settings: Settings, sent: Sequence[PlainEvent], n_rejected: int = 0) -> Changelog:
    """Every event sent is counted exactly once, and nothing newer was ever overwritten."""
    changelog = Changelog(settings)
    scales = settings.state.scales or "day,month"
    expected = bags(sent, parse_scales(scales))
    found = changelog.bags(scales)
    wrong = {
        key: (found.get(key), expected.get(key)) for key in {*found, *expected} if found.get(key) != expected.get(key)
    }
    assert not wrong, f"{len(wrong)} of {len(expected)} bags differ (found, expected): {list(wrong.items())[:3]}"
    assert changelog.ledger == Ledger(len(sent) + n_rejected, len(sent), 0, n_rejected)
    assert changelog.never_falls()
    return changelog


def check_published(settings: Settings) -> None:
    """Every user's last embedding becomes the full encode of the user's bags, and none older ever follows it."""
    changelog = Changelog(settings)
    expected = changelog.newest_seq()
    wait_until(lambda: {user: each.seq for user, each in newest_published(settings).items()} == expected)
    assert settings.model.bundle is not None
    bundle = Bundle.load(settings.model.bundle)
    published = newest_published(settings)
    for user, vectors in changelog.full_encode(bundle).items():
        assert published[user].model_id == bundle.model_id
        error = relative_error(published[user].vectors.astype(np.float64), vectors.astype(np.float64))
        assert error <= TOLERANCE, f"another embedding was published: {user=} {error=}"
    newest: dict[str, int] = {}
    for each in embeddings(settings):
        assert each.seq >= newest.get(each.user_id, 0), "an older embedding followed a newer one"
        newest[each.user_id] = each.seq
