"""A recovery that another rebalance overtakes must not be taken for complete: nothing may be done with half a state."""

import shutil

import pytest

from stream.settings import Kafka, Worker
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, second, wait_applied, wait_until


@pytest.mark.kafka
def test_workers_that_join_and_leave_during_a_recovery_cost_no_count(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    kafka = Kafka(brokers=kafka_broker.brokers, **FAST | {"fetch_bytes": 1 << 16})
    settings = settings_on(kafka_broker.brokers, kafka=kafka, worker=Worker())
    traffic = Traffic(settings, seed=42)
    traffic.send(6000)
    first, other = make_worker(settings).ready(), make_worker(second(settings))
    wait_applied(settings, first)
    first.kill()
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)

    with traffic.flowing(200):
        first.start("recovery.replayed:1=5")
        wait_until(lambda: assigned(first), explain=first.output)
        other.start("recovery.replayed:1=5")
        wait_until(lambda: assigned(other), explain=other.output)
        other.kill()
        handed_over({first: 2})
        other.ready()
        handed_over({first: 1, other: 1})
    wait_applied(settings, first, other)
    check_exact(settings, traffic.sent)
    check_published(settings)


def assigned(worker: WorkerProcess) -> bool:
    assert worker.returncode is None, worker.output()
    return "assigned: active=[0" in worker.output() or "assigned: active=[1" in worker.output()
