import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.connection import client_arguments
from stream.embedded_broker import ApacheKafka
from stream.settings import Settings
from stream.topics import end_offsets
from tests.brokers import kafka_home
from tests.conftest import NO_KAFKA
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Changelog, Traffic, check_exact, check_published, wait_applied, wait_until

EAGER = {"segment.ms": "500", "min.cleanable.dirty.ratio": "0.001"}


@pytest.fixture
def cleaning_broker(tmp_path: Path) -> Iterator[ApacheKafka]:
    """A broker that looks for something to compact all the time."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    with ApacheKafka(home, tmp_path / "broker", properties={"log.cleaner.backoff.ms": "200"}).start() as broker:
        yield broker


@pytest.mark.kafka
def test_a_compacted_changelog_is_recovered_exactly(
    cleaning_broker: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(cleaning_broker.brokers)
    compact_eagerly(settings)
    traffic, worker = Traffic(settings, seed=41), make_worker(settings).ready()
    for _ in range(4):
        traffic.send(1000)
        wait_applied(settings, worker)
    wait_until(lambda: is_compacted(settings, traffic), explain=worker.output)
    worker.kill()
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    worker.ready()
    traffic.send(200)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def compact_eagerly(settings: Settings) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.changelog_topic, configs=EAGER)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.alter_configs([resource])


def is_compacted(settings: Settings, traffic: Traffic) -> bool:
    """Most of what was overwritten is gone; only the newest segment is left alone, and a little traffic rolls it."""
    traffic.send(20)
    n_written = sum(end_offsets(settings, settings.changelog_topic).values())
    return len(Changelog(settings).records) < 0.6 * n_written
