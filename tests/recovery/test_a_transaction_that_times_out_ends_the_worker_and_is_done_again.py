import signal

import pytest
from kafka import KafkaConsumer, TopicPartition

from stream.fatal import EXIT_FATAL
from stream.kafka.connection import consumer_arguments
from stream.settings import Kafka, Settings
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied, wait_until


@pytest.mark.kafka
def test_a_transaction_that_times_out_ends_the_worker_and_is_done_again(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The worker halts before the commit for longer than the broker waits; the embedded broker waits for ever."""
    kafka = Kafka(brokers=kafka_broker.brokers, **FAST | {"transaction_timeout_s": 2.0})
    settings = settings_on(kafka_broker.brokers, kafka=kafka)
    traffic = Traffic(settings, seed=36)
    traffic.send(1000)
    worker = make_worker(settings)
    halted_at(worker, "batch.offset_sent")
    assert is_transaction_open(settings)
    wait_until(lambda: not is_transaction_open(settings))
    worker.signal(signal.SIGCONT)
    assert worker.wait() == EXIT_FATAL, worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)


def is_transaction_open(settings: Settings) -> bool:
    """Whether the changelog ends with records of an undecided transaction."""
    partitions = [TopicPartition(settings.changelog_topic, number) for number in range(settings.topics.partitions)]
    ends = []
    for isolation_level in ("read_committed", "read_uncommitted"):
        consumer = KafkaConsumer(**consumer_arguments(settings.kafka) | {"isolation_level": isolation_level})
        ends.append(consumer.end_offsets(partitions))
        consumer.close()
    return ends[0] != ends[1]
