"""An offset passes 2^40, as after 35 days at 366,000 events a second of one partition, in an epoch not the first."""

import re

import pytest

from stream.settings import Settings, Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.cut_logs import start
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, recreate, wait_applied

PASSED = 1 << 40


@pytest.mark.slow
@pytest.mark.kafka
def test_offsets_beyond_two_to_the_forty_are_counted_on(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = in_epoch(settings_on(own_kafka.brokers, partitions=1, worker=Worker()), 1)
    begin_at(own_kafka, settings, PASSED - 300)
    traffic, worker = Traffic(settings, seed=91), make_worker(settings).ready()
    for _ in range(3):
        traffic.send(200)
        wait_applied(settings, worker)
    changelog = check_exact(settings, traffic.sent)
    check_published(settings)
    assert changelog.partitions[0].next_offset >= PASSED + 300
    assert worker.terminate() == 0, worker.output()

    recreate(settings, settings.topics.events)
    traffic.send(100)
    (needed,) = re.findall(r"set LURM_TOPICS__EPOCH=(\d+)", refusal(make_worker(settings), 1))
    assert "the epoch is too low for seq to grow" in refusal(make_worker(in_epoch(settings, 2)), 2)
    worker = make_worker(in_epoch(settings, int(needed))).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def begin_at(kafka: ApacheKafka, settings: Settings, offset: int) -> None:
    """Have the empty events topic go on at this offset."""
    kafka.stop()
    folder = kafka.data_dir / "log" / f"{settings.topics.events}-0"
    for file in folder.glob(f"{0:020d}.*"):
        file.unlink()
    (folder / f"{offset:020d}.log").touch()
    start(kafka)


def in_epoch(settings: Settings, epoch: int) -> Settings:
    return settings.model_copy(update={"topics": settings.topics.model_copy(update={"epoch": epoch})})
