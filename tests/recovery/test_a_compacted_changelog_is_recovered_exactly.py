import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from rocksdict import WriteBatch

from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY
from state.store import BEHIND_S_MAX, NONE_APPLIED, BagStore
from stream.kafka.connection import client_arguments
from stream.kafka.topics import DELETE_RETENTION_MS, end_offsets
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import kafka_home
from tests.conftest import NO_KAFKA
from tests.plain import PlainEvent
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    FIRST_DAY,
    N_INTERESTS,
    Changelog,
    Traffic,
    check_exact,
    check_published,
    wait_applied,
    wait_until,
)

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


@pytest.mark.kafka
def test_a_disk_older_than_the_changelog_s_tombstones_is_wiped(
    cleaning_broker: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Days that were rolled up meanwhile still stand on it, and nothing in the changelog says that they are gone."""
    settings = settings_on(cleaning_broker.brokers, partitions=1)
    traffic, worker = Traffic(settings, seed=60), make_worker(settings).ready()
    traffic.send_these([event(user, day) for user in range(20) for day in range(10)])
    wait_applied(settings, worker)
    worker.kill()
    disk = settings.state.dir
    assert disk is not None
    shutil.copytree(disk, disk.with_name("old"))
    worker.ready()
    traffic.send_these([event(user, 100) for user in range(20)])
    wait_until(lambda: len(deleted(settings)) == 200, explain=worker.output)
    days = deleted(settings)
    compact_eagerly(settings, **{"delete.retention.ms": "0"})
    wait_until(lambda: not days & touched(settings, traffic), explain=worker.output)
    worker.kill()
    compact_eagerly(settings, **{"delete.retention.ms": str(DELETE_RETENTION_MS)})
    shutil.rmtree(disk)
    disk.with_name("old").rename(disk)
    with closing(BagStore(disk / settings.app.id / "partition-0", StoreResources(StoreOptions()))) as store:
        assert store.changelog_offset != NONE_APPLIED
        # As if all of this had taken the days that it stands for.
        store._write_applied(WriteBatch(raw_mode=True), store.changelog_offset, time.time() - BEHIND_S_MAX)
    worker.ready()
    traffic.send_these([event(user, 101) for user in range(20)])
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)


def event(user: int, day: int) -> PlainEvent:
    return PlainEvent(b"user-%d" % user, user % N_INTERESTS, (FIRST_DAY + day) * MS_PER_DAY)


def deleted(settings: Settings) -> set[bytes]:
    """Keys of tombstones."""
    return {record.key for record in Changelog(settings).records if record.value is None}


def touched(settings: Settings, traffic: Traffic) -> set[bytes]:
    """Every key in the changelog; only the newest segment is left alone, and a little traffic rolls it."""
    traffic.send_these([event(20, 100)])
    return {record.key for record in Changelog(settings).records}


def compact_eagerly(settings: Settings, **configs: str) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.changelog_topic, configs=EAGER | configs)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.alter_configs([resource])


def is_compacted(settings: Settings, traffic: Traffic) -> bool:
    """Most of what was overwritten is gone; only the newest segment is left alone, and a little traffic rolls it."""
    traffic.send(20)
    n_written = sum(end_offsets(settings, settings.changelog_topic).values())
    return len(Changelog(settings).records) < 0.6 * n_written
