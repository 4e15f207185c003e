"""Brokers, names and settings for tests: real processes, fresh names for every test, nothing patched."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from stream.kafka.connection import client_arguments, consumer_arguments
from stream.settings import App, Settings, Topics
from stream.settings import Kafka as KafkaSettings
from stream.trial.embedded_broker import ApacheKafka, EmbeddedBroker
from stream.trial.worker_process import environment_of

__all__ = ["Broker", "MakeSettings", "environment_of", "fresh_settings", "kafka_home", "new_broker", "producer",
           "read_records"]  # fmt: skip

Broker = EmbeddedBroker | ApacheKafka
MakeSettings = Callable[..., Settings]

# What a test may have read too much for: fail in seconds instead of minutes.
FAST = {"start_deadline_s": 10.0, "session_timeout_s": 6.0, "request_timeout_s": 10.0, "transaction_timeout_s": 10.0}


def kafka_home() -> Path | None:
    """The Kafka distribution that the environment names."""
    value = os.environ.get("KAFKA_HOME", "")
    return Path(value) if value else None


def new_broker(kind: str, data_dir: Path) -> Broker:
    """A broker of this kind ("embedded" or "kafka"), not started yet."""
    if kind == "embedded":
        return EmbeddedBroker(data_dir)
    home = kafka_home()
    assert home is not None, "the environment names no KAFKA_HOME"
    return ApacheKafka(home, data_dir)


def fresh_settings(brokers: str, **sections: Any) -> Settings:
    """Settings with an application and topics that nobody else uses; ``sections`` replace whole sections.

    ``partitions=2`` is short for the topics' partitions.
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    topics = Topics(
        events=f"{name}-events",
        embeddings=f"{name}-embeddings",
        dead_letters=f"{name}-dead-letters",
        items=f"{name}-items",
        partitions=sections.pop("partitions", 2),
    )
    defaults = {"app": App(id=name), "kafka": KafkaSettings(brokers=brokers, **FAST), "topics": topics}
    return Settings(**(defaults | sections))


@contextmanager
def producer(
    settings: Settings, transactional_id: str | None = None, compression: str | None = None
) -> Iterator[KafkaProducer]:
    """A plain or transactional producer, closed at the end."""
    arguments = client_arguments(settings.kafka) | {"acks": "all", "compression_type": compression}
    client = KafkaProducer(**arguments, transactional_id=transactional_id)
    try:
        if transactional_id is not None:
            client.init_transactions()
        yield client
    finally:
        client.close()


def read_records(settings: Settings, topic: str, partitions: Sequence[int]) -> list[ConsumerRecord]:
    """All committed records of these partitions, up to their ends now."""
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    consumer = KafkaConsumer(**consumer_arguments(settings.kafka))
    try:
        consumer.assign(wanted)
        consumer.seek_to_beginning(*wanted)
        ends = consumer.end_offsets(wanted)
        records: list[ConsumerRecord] = []
        while any(consumer.position(each) < ends[each] for each in wanted):
            for part in consumer.poll(timeout_ms=100).values():
                records.extend(part)
        return records
    finally:
        consumer.close()
