import signal
import time

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Kafka
from stream.trial.embedded_broker import EmbeddedBroker
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, is_applied, wait_applied, wait_until

DEAD_S = 15


def small_batches(broker: Broker) -> Kafka:
    """There is always a transaction in flight."""
    return Kafka(brokers=broker.brokers, **FAST | {"poll_events": 50})


def end(broker: Broker) -> None:
    """End it at once, except the embedded broker, which keeps its data only when it is asked to end."""
    broker.stop() if isinstance(broker, EmbeddedBroker) else broker.kill()


def let_it_work(worker: WorkerProcess, broker: Broker) -> None:
    """Until it is in the midst of it; the embedded broker may forget a commit when it ends, so there until it rests."""
    is_forgetful = isinstance(broker, EmbeddedBroker)
    wait_applied(worker.settings, worker, share=1.0 if is_forgetful else 0.2)
    if is_forgetful:
        # The gauge of dirty users is a second old, and may be of before they were.
        check_published(worker.settings)


@pytest.mark.slow
def test_a_broker_that_was_dead_for_a_while_costs_no_count(
    own_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(own_broker.start().brokers, kafka=small_batches(own_broker))
    traffic = Traffic(settings, seed=5)
    traffic.send(5000)
    worker = make_worker(settings).ready()
    let_it_work(worker, own_broker)
    end(own_broker)
    time.sleep(DEAD_S)
    assert worker.get("/livez")[0] == 200
    own_broker.start()
    wait_until(lambda: worker.returncode is not None or is_applied(settings))
    print("the worker", "resumed" if worker.returncode is None else "ended", worker.output()[-1500:])
    # A transaction that the broker aborted meanwhile cannot go on: then a supervisor starts the worker again.
    if worker.returncode is not None:
        assert worker.returncode == EXIT_FATAL, worker.output()
        worker.ready()
    traffic.send(500)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    assert len(worker.output().splitlines()) < 100, "an absent broker does not fill the log"


@pytest.mark.slow
def test_a_worker_can_be_stopped_while_its_broker_is_dead(
    own_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(own_broker.start().brokers, kafka=small_batches(own_broker))
    traffic = Traffic(settings, seed=16)
    traffic.send(5000)
    worker = make_worker(settings).ready()
    let_it_work(worker, own_broker)
    end(own_broker)
    worker.signal(signal.SIGTERM)
    assert worker.wait(25) in {0, EXIT_FATAL}, worker.output()
    own_broker.start()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
