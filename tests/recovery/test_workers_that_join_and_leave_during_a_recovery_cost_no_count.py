"""A recovery that another rebalance overtakes must not be taken for complete: nothing may be done with half a state."""

import shutil
import signal

import pytest

from stream.settings import Kafka, Worker
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, second, wait_applied, wait_until


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.parametrize("leave", [signal.SIGKILL, signal.SIGTERM])
def test_workers_that_join_and_leave_during_a_recovery_cost_no_count(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, leave: signal.Signals
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
        first.start("recovery.replayed:1=8")
        wait_until(lambda: recovering(first), explain=first.output)
        other.start("recovery.replayed:1=5")
        wait_until(lambda: recovering(other), explain=other.output)
        other.signal(leave)
        assert other.wait() == (0 if leave is signal.SIGTERM else -leave), other.output()
        handed_over({first: 2})
        other.ready()
        handed_over({first: 1, other: 1})
    wait_applied(settings, first, other)
    check_exact(settings, traffic.sent)
    check_published(settings)


def recovering(worker: WorkerProcess) -> bool:
    """It has partitions and has not said since they came that it is done."""
    assert worker.returncode is None, worker.output()
    said = worker.output()
    came = max(said.rfind(f"assigned: active=[{number}") for number in (0, 1))
    return said.rfind("recovered: partitions=") < came
