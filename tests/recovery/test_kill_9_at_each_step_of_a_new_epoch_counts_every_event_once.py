"""The transaction that writes down which topic is read, and all that is rejected of it."""

import pytest

from stream.failpoints import STEPS
from tests.brokers import Broker
from tests.recovery.runs import check_disk, check_letters, killed_at, send_with_poison
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, recreate, wait_applied

STEPS_OF_A_NEW_EPOCH = [step for step in STEPS if step.startswith("begin.")]


@pytest.mark.slow
@pytest.mark.kafka
def test_kill_9_at_each_step_of_a_new_epoch_counts_every_event_once(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker gives topics no id."""
    settings = settings_on(kafka_broker.brokers)
    traffic, worker = Traffic(settings, seed=53), make_worker(settings).ready()
    n_rejected = send_with_poison(traffic, 200)
    wait_applied(settings, worker)
    assert len(STEPS_OF_A_NEW_EPOCH) == 4
    for epoch, step in enumerate(STEPS_OF_A_NEW_EPOCH, start=1):
        assert worker.terminate() == 0, worker.output()
        recreate(settings, settings.topics.events)
        n_rejected += send_with_poison(traffic, 200)
        topics = settings.topics.model_copy(update={"epoch": epoch})
        worker = make_worker(settings.model_copy(update={"topics": topics}))
        killed_at(worker, step)
        worker.ready()
        wait_applied(worker.settings, worker)
        check_exact(settings, traffic.sent, n_rejected)
        check_letters(worker.settings, n_rejected)
    check_published(settings)
    check_disk(worker)
