import pytest

from stream.failpoints import STEPS
from tests.brokers import Broker
from tests.recovery.runs import check_disk, killed_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied

# The last of an encode is to note down that it was published.
STEPS_OF_AN_ENCODE = [step for step in STEPS if step.startswith(("encode.", "note."))]


@pytest.mark.kafka
def test_kill_9_at_each_step_of_an_encode_leaves_nobody_behind(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Read from behind an aborted transaction, the embedded broker hides the committed ones that follow."""
    settings = settings_on(kafka_broker.brokers)
    traffic = Traffic(settings, seed=32)
    worker = make_worker(settings)
    for step in STEPS_OF_AN_ENCODE:
        traffic.send(300)
        killed_at(worker, step)
    # Nothing new comes: whoever was in flight must be found dirty in what the dead left.
    worker.ready()
    wait_applied(settings, worker)
    check_published(settings)
    check_exact(settings, traffic.sent)
    check_disk(worker)
