"""Whoever is told to stop while it replays the changelog leaves the group in order; another does it all."""

import signal
from collections.abc import Callable

import pytest

from stream.settings import Kafka, Worker
from stream.trial.worker_process import GRACE_S
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, second, wait_applied, wait_until


def halted(worker: WorkerProcess) -> None:
    """Between two batches of the changelog."""
    halted_at(worker, "recovery.replayed")


def slowed(worker: WorkerProcess) -> None:
    """Before or within the first, which takes long: the group hears of it meanwhile."""
    worker.start("recovery.replayed:1=4")
    wait_until(lambda: "assigned: active=[" in worker.output() or worker.returncode is not None)


@pytest.mark.kafka
@pytest.mark.parametrize("reach", [halted, slowed])
@pytest.mark.parametrize("alone", [False, True], ids=["beside another", "alone"])
def test_sigterm_during_a_recovery_hands_it_over(
    kafka_broker: Broker,
    settings_on: MakeSettingsOn,
    make_worker: MakeWorker,
    reach: Callable[[WorkerProcess], None],
    alone: bool,
) -> None:
    # A replay takes several batches; the partitions of a member without a static id move at once when it leaves.
    kafka = Kafka(brokers=kafka_broker.brokers, **FAST | {"fetch_bytes": 1 << 16})
    settings = settings_on(kafka_broker.brokers, kafka=kafka, worker=Worker())
    traffic = Traffic(settings, seed=61)
    traffic.send(6000)
    worker, leaving = make_worker(settings).ready(), make_worker(second(settings))
    wait_applied(settings, worker)
    if alone:
        assert worker.terminate() == 0
    with traffic.flowing(200):
        reach(leaving)
        leaving.signal(signal.SIGTERM)
        leaving.signal(signal.SIGCONT)
        assert leaving.wait(GRACE_S) == 0, leaving.output()
        assert {"ERROR", "CRITICAL", "Traceback"}.isdisjoint(leaving.output().split()), leaving.output()
        handed_over({worker.ready(): 2})
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
