from stream.failpoints import STEPS
from stream.settings import Settings
from tests.recovery.runs import check_disk, killed_at
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied

# The last of an encode is to note down that it was published.
STEPS_OF_AN_ENCODE = [step for step in STEPS if step.startswith(("encode.", "note."))]


def test_kill_9_at_each_step_of_an_encode_leaves_nobody_behind(one_settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(one_settings, seed=32)
    worker = make_worker(one_settings)
    for step in STEPS_OF_AN_ENCODE:
        traffic.send(300)
        killed_at(worker, step)
    # Nothing new comes: whoever was in flight must be found dirty in what the dead left.
    worker.ready()
    wait_applied(one_settings, worker)
    check_published(one_settings)
    check_exact(one_settings, traffic.sent)
    check_disk(worker)
