"""Brokers make what is asked for unless they are told otherwise: one partition, and deleted after a week."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from stream.errors import LurmError
from stream.kafka.connection import admin, reading
from stream.kafka.topics import create_missing, end_offsets
from stream.kafka.transactions import TransactionalProducer
from stream.records.outgoing import Outgoing
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import fresh_settings, kafka_home
from tests.conftest import NO_KAFKA
from tests.workers import wait_until


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Topics at such a broker, the embeddings topic deleted."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    with ApacheKafka(home, tmp_path / "broker", properties={"auto.create.topics.enable": "true"}).start() as broker:
        found = fresh_settings(broker.brokers)
        create_missing(found)
        with admin(found) as client:
            client.delete_topics([found.topics.embeddings])
            wait_until(lambda: found.topics.embeddings not in client.list_topics())
        yield found


@pytest.mark.kafka
def test_no_client_makes_a_topic_by_asking_for_it(settings: Settings) -> None:
    topic = settings.topics.embeddings

    async def writes() -> None:
        producer = TransactionalProducer(settings.kafka, settings.app.id, 0)
        await producer.start()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    await producer.transact("encode", {topic: [Outgoing(b"ann", b"")]}, 1)
        finally:
            await producer.stop()

    async def reads() -> None:
        async with reading(settings.kafka, "read_committed", [TopicPartition(topic, 0)]):
            await asyncio.sleep(3.0)

    with suppress(LurmError):
        end_offsets(settings, topic)
    for ask in (reads, writes):
        asyncio.run(ask())
        with admin(settings) as client:
            assert topic not in client.list_topics(), ask.__name__
