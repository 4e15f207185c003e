from contextlib import closing

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.connection import client_arguments
from stream.settings import Settings
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.worker.test_a_snapshot_taken_under_load_restores_a_worker_exactly import lurm
from tests.workers import Traffic


def narrow(settings: Settings, topic: str) -> None:
    """No clock is right for this topic: as one that is two hours ahead for any other."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"message.timestamp.before.max.ms": "0"})
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.alter_configs([resource])


@pytest.mark.kafka
def test_a_clock_that_the_broker_refuses_is_named(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers)
    Traffic(settings, seed=25).send(10)
    for topic in (settings.changelog_topic, settings.control_topic):
        narrow(settings, topic)
    worker = make_worker(settings).start()
    assert worker.wait() == 1, worker.output()
    said = worker.output()
    assert "Traceback" not in said
    assert f"TimeRefused: the broker refuses the time of our records: topic={settings.changelog_topic} time=" in said
    assert "set this machine's clock (NTP)" in said
    code, said = lurm(settings, "erase", "user-1")
    assert (code, "set this machine's clock (NTP)" in said, "Traceback" in said) == (1, True, False), said
