"""Kafka can lose the marker of a transaction that it calls complete, when its only node is stopped in that moment.

The records then wait in the changelog, and become readable with the next commit of whoever has the same transactional
id: rows of a batch that the successor applies again.
"""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from state.periods import MS_PER_DAY
from stream.connection import aiokafka_arguments
from stream.embedded_broker import ApacheKafka
from stream.settings import Settings
from tests.brokers import Broker, kafka_home
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import FIRST_DAY, Changelog, Traffic, check_exact, check_published, end_offsets, wait_applied

# A count that no traffic reaches, as the last pair of a row has it.
FORGED = (999_999).to_bytes(4, "little")


@pytest.mark.kafka
def test_a_transaction_that_kafka_forgot_to_end_counts_nothing(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    home = kafka_home()
    assert home is not None
    # With verification the broker refuses what makes a transaction hang here.
    careless = {"transaction.partition.verification.enable": "false"}
    with ApacheKafka(home, tmp_path / "careless", properties=careless) as broker:
        settings = settings_on(broker.brokers)
        traffic, worker = Traffic(settings, seed=77), make_worker(settings)
        worker.ready()
        traffic.send_these([PlainEvent(b"quiet", i % 5, FIRST_DAY * MS_PER_DAY + i) for i in range(20)])
        traffic.send(200)
        wait_applied(settings, worker)
        worker.kill()
        (row,) = [record for record in Changelog(settings).records if record.key.startswith(b"quiet\0")][-1:]
        asyncio.run(hang(settings, row))

        assert settings.state.dir is not None
        shutil.rmtree(settings.state.dir)
        worker.ready()
        assert "a transaction that nobody ended is aborted" in worker.output()
        traffic.send(200)
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
        check_published(settings)


async def hang(settings: Settings, row: ConsumerRecord) -> None:
    """Write a row with a wrong count in a transaction of the owner's that the coordinator does not know."""
    before = end_offsets(settings, settings.changelog_topic)[row.partition]
    producer = AIOKafkaProducer(
        **aiokafka_arguments(settings.kafka), transactional_id=f"{settings.app.id}-{row.partition}", acks="all"
    )
    await producer.start()
    await producer.begin_transaction()
    producer._txn_manager._txn_partitions.add(TopicPartition(row.topic, row.partition))
    forged = row.value[:-4] + FORGED
    await producer.send_and_wait(row.topic, forged, row.key, partition=row.partition, timestamp_ms=_now_ms())
    producer._txn_manager._txn_partitions.clear()
    # The coordinator knows of nothing to end: the record's transaction stays open.
    await producer.abort_transaction()
    await producer.stop()
    assert end_offsets(settings, settings.changelog_topic)[row.partition] == before + 1


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
