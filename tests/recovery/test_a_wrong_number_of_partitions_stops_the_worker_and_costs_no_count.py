"""A user's events and rows must be in one partition, which Kafka's own partitioner finds from their number."""

from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from stream.kafka.connection import client_arguments
from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, recreate, stopped_after, wait_applied


def test_a_changelog_with_another_number_is_refused(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=58), make_worker(settings)
    stopped_after(worker, traffic)
    topics = settings.topics.model_copy(update={"partitions": 3})
    recreate(settings.model_copy(update={"topics": topics}), settings.changelog_topic)
    said = refusal(worker, 2)
    assert f"topic {settings.changelog_topic}: found 3 partitions, wanted 2 partitions" in said
    assert "delete" not in said, "whoever deletes a changelog deletes the state"


@pytest.mark.kafka
def test_partitions_that_are_added_stop_a_running_worker(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, worker = Traffic(settings, seed=59), make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.create_partitions({settings.topics.events: 3})
    assert worker.wait() == 1, worker.output()
    assert "partitions were added to the events topic" in worker.output()
    assert "found 3 partitions, wanted 2" in refusal(worker, 2)
    check_exact(settings, traffic.sent)
    check_published(settings)
