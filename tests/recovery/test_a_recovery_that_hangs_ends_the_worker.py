import os
import signal
import time

from stream.fatal import EXIT_FATAL
from stream.settings import Kafka
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied, wait_until


def test_a_recovery_that_hangs_ends_the_worker(
    own_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The broker falls silent when partitions were assigned: whichever call it meets, nothing waits for ever."""
    kafka = Kafka(brokers=own_broker.start().brokers, **FAST | {"request_timeout_s": 6.0})
    settings = settings_on(own_broker.brokers, kafka=kafka)
    traffic = Traffic(settings, seed=17)
    traffic.send(500)
    worker = make_worker(settings).start()
    while "assigned:" not in worker.output():
        assert worker.returncode is None, worker.output()
        time.sleep(0.002)
    os.kill(own_broker.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: worker.returncode is not None or worker.get("/readyz")[0] == 200, 20)
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    assert worker.returncode == EXIT_FATAL, worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def test_a_worker_whose_group_refuses_it_ends(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The broker takes no session this short: aiokafka's coordinator dies of it, and Faust does not notice."""
    kafka = Kafka(brokers=broker.brokers, **FAST | {"session_timeout_s": 1.0})
    worker = make_worker(settings_on(broker.brokers, kafka=kafka)).start()
    assert worker.wait() == EXIT_FATAL, worker.output()
    assert "the worker ends: InvalidSessionTimeoutError" in worker.output()
