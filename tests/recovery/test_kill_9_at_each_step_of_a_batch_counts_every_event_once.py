import pytest

from stream.failpoints import STEPS
from stream.settings import Kafka
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk, check_letters, killed_at, send_with_poison
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied

STEPS_OF_A_BATCH = [step for step in STEPS if step.startswith("batch.")]


@pytest.mark.kafka
def test_kill_9_at_each_step_of_a_batch_counts_every_event_once(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Read from behind an aborted transaction, the embedded broker hides the committed ones that follow."""
    settings = settings_on(
        kafka_broker.brokers, kafka=Kafka(brokers=kafka_broker.brokers, **FAST | {"poll_events": 100})
    )
    traffic = Traffic(settings, seed=31)
    worker, n_rejected = make_worker(settings), 0
    for step in STEPS_OF_A_BATCH:
        n_rejected += send_with_poison(traffic, 1000)
        killed_at(worker, step, passage=3)
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent, n_rejected)
    check_letters(settings, n_rejected)
    check_published(settings)
    check_disk(worker)
