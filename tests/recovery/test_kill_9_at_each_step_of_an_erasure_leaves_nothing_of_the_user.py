from pathlib import Path

import pytest

from stream.failpoints import STEPS
from stream.operations.erasure_request import Asked, request
from tests.brokers import Broker
from tests.erasures import another_application, check_exact_without, life, receipt_of
from tests.recovery.runs import check_disk, killed_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, wait_applied

STEPS_OF_AN_ERASURE = [step for step in STEPS if step.startswith("erase")]


@pytest.mark.slow
@pytest.mark.kafka
def test_kill_9_at_each_step_of_an_erasure_leaves_nothing_of_the_user(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    # One partition, so that the first step of each run is that of the oldest erasure not committed yet.
    settings = settings_on(kafka_broker.brokers, partitions=1)
    traffic, worker = Traffic(settings, seed=62), make_worker(settings)
    traffic.send(200)
    traffic.send_these([*life("ann", 5), *life("bob", 5)])
    worker.ready()
    wait_applied(settings, worker)
    worker.kill()
    asked: dict[str, Asked] = {}
    for step in STEPS_OF_AN_ERASURE:
        # Events on both sides of the erasure's end, and a user who is dirty when it comes.
        user = "bob" if step == "erase.applied" else "ann"
        traffic.send_these(life(user, 4))
        if user not in asked:
            asked[user] = request(settings, [user])
        traffic.send_these(life(user, 3))
        killed_at(worker, step)
    worker.ready()
    wait_applied(settings, worker)
    receipts = [receipt_of(settings, each) for each in asked.values()]
    assert all(receipt.removed.rows for receipt in receipts)
    check_exact_without(settings, receipts)
    check_disk(worker)
    # Whatever was repeated, another application of these events skips what this one erased, and no more.
    other = another_application(settings, tmp_path)
    beside = make_worker(other).ready()
    wait_applied(other, beside)
    check_exact_without(other, receipts, anew=True)


def test_the_steps_are_those_of_the_description() -> None:
    assert len(STEPS_OF_AN_ERASURE) == 7
