from collections.abc import Callable

import pytest

from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import (
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    second,
    wait_applied,
    wait_until,
)


@pytest.mark.kafka
def test_a_standby_takes_over_what_a_killed_worker_held(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = with_standby(settings_on(kafka_broker.brokers))
    lose_one(make_worker(settings), make_worker(second(settings)), WorkerProcess.kill)


def test_a_standby_takes_over_when_a_worker_leaves(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = with_standby(settings_on(broker.brokers, worker=Worker()))
    lose_one(make_worker(settings), make_worker(second(settings)), WorkerProcess.terminate)


def with_standby(settings: Settings) -> Settings:
    return settings.model_copy(update={"state": settings.state.model_copy(update={"standbys": 1})})


def lose_one(survivor: WorkerProcess, other: WorkerProcess, how: Callable[[WorkerProcess], object]) -> None:
    settings, traffic = survivor.settings, Traffic(survivor.settings, seed=3)
    traffic.send(3000)
    survivor.ready()
    other.ready()
    handed_over({survivor: 1, other: 1})
    wait_applied(settings, survivor, other)
    wait_until(lambda: survivor.metric("lurm_partitions", role="standby") == 1)
    wait_until(lambda: survivor.metric("lurm_standby_lag_rows") == 0, explain=survivor.output)
    n_rows, n_replayed = len(Changelog(settings).records), survivor.metric("lurm_replayed_rows_total")
    with traffic.flowing(300):
        how(other)
        handed_over({survivor: 2})
        n_tail = survivor.metric("lurm_replayed_rows_total") - n_replayed
    assert n_tail < n_rows / 2, "promoted, not rebuilt"
    wait_applied(settings, survivor)
    check_exact(settings, traffic.sent)
    check_published(settings)
