"""Whole workers for tests: the real process, random events and what Kafka must hold after them.

What counts is only what stands in Kafka: bags are read from the changelog, embeddings from their topic, and both are
compared with the plain reference, whatever happened to workers and brokers meanwhile.
"""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaAdminClient, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from numpy.typing import NDArray

from lurm_model.bundle import Bundle
from lurm_model.inference.encoder import Encoder
from state.history import resolve
from state.periods import MS_PER_DAY, SCALES, parse_scales
from state.record import Ledger, PartitionRecord, decode_record
from state.rows import RECORD_KEY, decode_header, decode_rows, seq_of, user_of
from stream.kafka.connection import client_arguments
from stream.kafka.topics import create_missing, end_offsets
from stream.operations.comparison import relative_error
from stream.records.embedding_record import Embedding, Erased, decode
from stream.settings import Encode, Metrics, Model, Settings, State, Worker
from stream.soak.check import TOLERANCE, is_applied
from stream.soak.traffic import value_of
from stream.testing.bundle import FIRST_DAY, N_INTERESTS, tiny_bundle
from stream.trial.worker_process import DEADLINE_S, WorkerProcess
from tests.brokers import fresh_settings, producer, read_records
from tests.plain import Bags, PlainEvent, bags

# What a worker test needs, whoever owns it.
__all__ = [
    "DEADLINE_S",
    "FIRST_DAY",
    "LURM",
    "N_INTERESTS",
    "Changelog",
    "Traffic",
    "WorkerProcess",
    "all_published",
    "bundle_with_kinds",
    "check_exact",
    "check_published",
    "delete_records",
    "embeddings",
    "is_applied",
    "newest_published",
    "recreate",
    "second",
    "stopped_after",
    "tiny_bundle",
    "value_of",
    "wait_applied",
    "wait_until",
    "worker_settings",
]

LURM = Path(sys.executable).with_name("lurm")


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


def bundle_with_kinds() -> Bundle:
    """As the tiny bundle, with a token for every interest, ``kind=0`` to ``kind=19``, that points to it."""
    tiny = tiny_bundle()
    # Of vectors of length 1 each has its largest product with itself.
    unit = tiny.codebook.centroids / np.linalg.norm(tiny.codebook.centroids, axis=1, keepdims=True)
    tokens = {f"kind={i}": i for i in range(N_INTERESTS)}
    book = replace(tiny.codebook, centroids=unit, tokens=tokens, token_vectors=unit)
    return Bundle.build(tiny.config, book, tiny.weights, {}, {})


def second(settings: Settings, name: str = "b") -> Settings:
    """The same application on another worker: a disk and a member id of its own."""
    assert settings.state.dir is not None
    state = settings.state.model_copy(update={"dir": settings.state.dir.with_name(f"state-{name}")})
    instance = name if settings.worker.instance else ""
    worker = settings.worker.model_copy(update={"instance": instance})
    return settings.model_copy(update={"state": state, "worker": worker})


class Traffic:
    """Random events of the tiny bundle's items, remembered as they were sent."""

    def __init__(self, settings: Settings, seed: int, prefix: str = "user") -> None:
        self.settings = settings
        self.sent: list[PlainEvent] = []
        self._random = random.Random(seed)
        self._prefix = prefix
        print(f"traffic: seed={seed}")

    def send(self, n: int, compression: str | None = None) -> None:
        """Send n random events, all acknowledged when this returns."""
        self.send_these(self.events(n), compression)

    def events(self, n: int) -> list[PlainEvent]:
        """n random events, not sent."""
        return [self._event() for _ in range(n)]

    def send_these(self, events: Sequence[PlainEvent], compression: str | None = None) -> None:
        """Send these events, all acknowledged when this returns."""
        with producer(self.settings, compression=compression) as client:
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


def wait_until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S, explain: Callable[[], Any] = str) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {deadline_s} s in vain: {explain()}"
        time.sleep(0.1)


def wait_applied(settings: Settings, *workers: WorkerProcess, share: float = 1.0) -> None:
    """Wait until this share of the source is committed; fails at once when one of the workers ended."""

    def applied() -> bool:
        for worker in workers:
            assert worker.returncode is None, worker.output()
        return is_applied(settings, share)

    wait_until(applied, explain=lambda: [worker.output() for worker in workers])


def stopped_after(worker: WorkerProcess, traffic: Traffic) -> None:
    """Let the worker apply some events, and stop it."""
    worker.ready()
    traffic.send(500)
    wait_applied(worker.settings, worker)
    assert worker.terminate() == 0, worker.output()


def recreate(settings: Settings, topic: str, configs: Mapping[str, str] | None = None) -> None:
    """Delete a topic and make it again, empty, as planned or with these settings of the broker's."""
    wanted = {"num_partitions": settings.topics.partitions, "replication_factor": 1, "configs": dict(configs or {})}
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics())
        if configs is not None:
            wait_until(lambda: admin.create_topics({topic: wanted}, raise_errors=False)["topics"][0]["error_code"] == 0)
            return
    wait_until(lambda: topic in create_missing(settings))


def delete_records(settings: Settings, topic: str) -> None:
    """What retention does: all records up to now are gone, and offsets go on."""
    ends = {TopicPartition(topic, number): end for number, end in end_offsets(settings, topic).items()}
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.delete_records(ends)


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
            seq = int(decode_header([record.value])[0][0]) if is_row else _applied_seq(decode_record(record.value))
            if seq < newest.get((record.partition, record.key), 0):
                return False
            newest[record.partition, record.key] = seq
        return True


def _applied_seq(record: PartitionRecord) -> int:
    return seq_of(record.epoch, record.next_offset)


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
    assert settings.model.bundle is not None
    changelog, bundle = Changelog(settings), Bundle.load(settings.model.bundle)
    expected = {user: (seq, bundle.model_id) for user, seq in changelog.newest_seq().items()}

    def newest_of_all() -> dict[bytes, tuple[int, str]]:
        return {user: (each.seq, each.model_id) for user, each in newest_published(settings).items()}

    wait_until(lambda: newest_of_all() == expected, explain=lambda: dict(newest_of_all().items() ^ expected.items()))
    published = newest_published(settings)
    for user, vectors in changelog.full_encode(bundle).items():
        error = relative_error(published[user].vectors.astype(np.float64), vectors.astype(np.float64))
        assert error <= TOLERANCE, f"another embedding was published: {user=} {error=}"
    newest: dict[str, int] = {}
    for each in embeddings(settings):
        assert each.seq >= newest.get(each.user_id, 0), "an older embedding followed a newer one"
        newest[each.user_id] = each.seq
