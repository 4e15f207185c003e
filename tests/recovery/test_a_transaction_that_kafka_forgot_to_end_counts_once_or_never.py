"""Kafka can lose the marker of a transaction that it calls complete, when its only node is stopped in that moment.

Readers wait before its records until a later transaction of the same transactional id ends, and it ends like that one:
a batch that was called committed, and stands in its owner's store, may be aborted; half a batch may be committed.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from state.bags import Bags
from state.dirty import MarkColumns
from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY, SCALES
from state.record import Ledger, PartitionRecord, encode_record
from state.rows import RECORD_KEY, Write, encode_keys, encode_values, seq_of
from state.store import BagStore, Changes
from stream.kafka.connection import aiokafka_arguments
from stream.kafka.topics import end_offsets
from stream.records.outgoing import Outgoing
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import Broker, kafka_home, read_records
from tests.plain import PlainEvent
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    FIRST_DAY,
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    wait_applied,
)

USER = b"quiet"
pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_broker: Broker, settings_on: MakeSettingsOn, tmp_path: Path) -> Iterator[Settings]:
    """On a broker that lets a transaction hang: with verification it refuses what makes one here."""
    home = kafka_home()
    assert home is not None
    careless = {"transaction.partition.verification.enable": "false"}
    with ApacheKafka(home, tmp_path / "careless", properties=careless) as broker:
        yield settings_on(broker.brokers)


class Batch:
    """One more event of a user, as a worker would write it to the changelog."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        changelog = Changelog(traffic.settings)
        self.partition = next(each.partition for each in changelog.records if each.key.startswith(USER + b"\0"))
        before = changelog.partitions[self.partition]
        offset = end_offsets(traffic.settings, traffic.settings.topics.events)[self.partition]
        self.day, self._seq = FIRST_DAY + 50, np.array([seq_of(before.epoch, offset)])
        self.event = PlainEvent(USER, 7, self.day * MS_PER_DAY)
        traffic.send_these([self.event])
        bag = Bags(np.array([0, 1]), np.array([7], np.uint32), np.array([1], np.uint32))
        zero, day = np.zeros(1, np.int64), np.array([self.day])
        (key,) = encode_keys([USER], zero, zero + SCALES["day"].code, day)
        (value,) = encode_values(self._seq, np.array([self.event.ts_ms]), bag)
        self.row: Write = (key, value)
        ledger = before.ledger + Ledger(received=1, applied=1)
        self.record: PartitionRecord = msgspec.structs.replace(before, next_offset=offset + 1, ledger=ledger)

    @property
    def outgoing(self) -> list[Outgoing]:
        """Everything."""
        return [Outgoing(*self.row), Outgoing(RECORD_KEY, encode_record(self.record))]

    def apply_to_disk(self, changelog_offset: int) -> None:
        """As its owner does, once the broker has called it committed."""
        folder = self._traffic.settings.state.dir
        assert folder is not None
        path = folder / self._traffic.settings.app.id / f"partition-{self.partition}"
        with closing(BagStore(path, StoreResources(StoreOptions()))) as store:
            columns = MarkColumns(self._seq, self._seq, np.array([_now_ms()]), np.array([self.day]))
            marks = store.marks.add([USER], columns)
            store.apply(Changes([self.row], self.record, changelog_offset, marks))


@pytest.mark.slow
def test_half_a_batch_counts_nothing(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = begun(settings, make_worker)
    forged = Batch(traffic)
    written(settings, settings.changelog_topic, forged.partition, forged.outgoing[:1], ended=False)
    go_on(worker, traffic, "aborting it")


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_whole_batch_counts_once(settings: Settings, make_worker: MakeWorker, *, on_disk: bool) -> None:
    traffic, worker = begun(settings, make_worker)
    batch = Batch(traffic)
    last = written(settings, settings.changelog_topic, batch.partition, batch.outgoing, ended=False)
    assert settings.state.dir is not None
    if on_disk:
        batch.apply_to_disk(last)
    else:
        shutil.rmtree(settings.state.dir)
    go_on(worker, traffic, "committing it")


def test_a_disk_with_a_batch_that_kafka_aborted_after_all_begins_anew(
    settings: Settings, make_worker: MakeWorker
) -> None:
    traffic, worker = begun(settings, make_worker)
    batch = Batch(traffic)
    batch.apply_to_disk(written(settings, settings.changelog_topic, batch.partition, batch.outgoing, ended=True))
    go_on(worker, traffic, "the state holds what Kafka has aborted")


def test_embeddings_are_seen(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = begun(settings, make_worker)
    topic = settings.topics.embeddings
    last = read_records(settings, topic, [0])[-1]
    written(settings, topic, 0, [Outgoing(last.key, last.value, last.headers)], ended=False, of="-embeddings")
    assert read_records(settings, topic, [0])[-1].offset == last.offset
    worker.ready()
    assert read_records(settings, topic, [0])[-1].offset > last.offset
    go_on(worker, traffic, "committing it")


def begun(settings: Settings, make_worker: MakeWorker) -> tuple[Traffic, WorkerProcess]:
    """A worker that has applied and published, and was killed."""
    traffic, worker = Traffic(settings, seed=77), make_worker(settings)
    worker.ready()
    traffic.send_these([PlainEvent(USER, i % 5, FIRST_DAY * MS_PER_DAY + i) for i in range(20)])
    traffic.send(200)
    wait_applied(settings, worker)
    check_published(settings)
    worker.kill()
    return traffic, worker


def go_on(worker: WorkerProcess, traffic: Traffic, said: str) -> None:
    """Start the worker if need be, and check everything."""
    if worker.returncode is not None:
        worker.ready()
    assert said in worker.output()
    traffic.send(200)
    wait_applied(worker.settings, worker)
    check_exact(worker.settings, traffic.sent)
    check_published(worker.settings)
    check_disk(worker)


def written(
    settings: Settings, topic: str, partition: int, records: list[Outgoing], *, ended: bool, of: str = ""
) -> int:
    """Write these in a transaction of the owner's that is aborted, or of which the coordinator knows nothing.

    Returns the offset of the last one.
    """

    async def write() -> int:
        producer = AIOKafkaProducer(
            **aiokafka_arguments(settings.kafka), transactional_id=f"{settings.app.id}{of}-{partition}", acks="all"
        )
        await producer.start()
        await producer.begin_transaction()
        known = producer._txn_manager._txn_partitions
        if not ended:
            known.add(TopicPartition(topic, partition))
        for each in records:
            sent = await producer.send_and_wait(topic, each.value, each.key, partition, _now_ms(), each.headers)
        if not ended:
            # There is nothing to end, it thinks: the transaction stays open.
            known.clear()
        await producer.abort_transaction()
        await producer.stop()
        return int(sent.offset)

    before = end_offsets(settings, topic)[partition]
    last = asyncio.run(write())
    assert end_offsets(settings, topic)[partition] == before + len(records) + ended
    return last


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
