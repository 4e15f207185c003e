"""Whatever the new topic holds: shorter, or already longer than what was applied of the old one."""

import shutil

import pytest

from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, recreate, stopped_after, wait_applied


@pytest.mark.slow
def test_a_shorter_topic(settings: Settings, make_worker: MakeWorker) -> None:
    count_on_after_recreation(settings, make_worker, n_new=50)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_longer_topic(kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker) -> None:
    """The embedded broker gives topics no id."""
    count_on_after_recreation(settings_on(kafka_broker.brokers), make_worker, n_new=900)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_topic_that_is_recreated_under_a_running_worker(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic = Traffic(settings, seed=19)
    worker = make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    recreate(settings, settings.topics.events)
    traffic.send(900)
    assert worker.wait() == 1, worker.output()
    assert "was it recreated?" in refusal(worker, 1)
    worker = make_worker(with_epoch(settings, 1)).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


@pytest.mark.slow
@pytest.mark.kafka
def test_an_epoch_that_does_not_fit_is_misuse(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = with_epoch(settings_on(kafka_broker.brokers), 2)
    stopped_after(make_worker(settings), Traffic(settings, seed=20))
    assert "the state has begun a later epoch" in refusal(make_worker(with_epoch(settings, 1)), 2)


@pytest.mark.kafka
def test_an_epoch_that_is_raised_on_the_same_topic_counts_nothing_twice(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers)
    traffic = Traffic(settings, seed=21)
    stopped_after(make_worker(settings), traffic)
    worker = make_worker(with_epoch(settings, 1)).ready()
    traffic.send(300)
    wait_applied(settings, worker)
    changelog = check_exact(settings, traffic.sent)
    assert {record.epoch for record in changelog.partitions.values()} == {1}
    check_published(settings)


def count_on_after_recreation(settings: Settings, make_worker: MakeWorker, n_new: int) -> None:
    traffic = Traffic(settings, seed=13)
    worker = make_worker(settings)
    stopped_after(worker, traffic)
    recreate(settings, settings.topics.events)
    traffic.send(n_new)
    assert "was it recreated?" in refusal(worker, 1)
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    assert "was it recreated?" in refusal(worker, 1), "a fresh disk cannot hide it"

    raised = with_epoch(settings, 1)
    worker = make_worker(raised).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    worker.kill()
    traffic.send(100)
    worker.ready()
    wait_applied(settings, worker)
    changelog = check_exact(settings, traffic.sent)
    check_published(settings)
    assert {record.epoch for record in changelog.partitions.values()} == {1}


def with_epoch(settings: Settings, epoch: int) -> Settings:
    return settings.model_copy(update={"topics": settings.topics.model_copy(update={"epoch": epoch})})
