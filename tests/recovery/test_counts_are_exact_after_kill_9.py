import random
import time

from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


def test_counts_are_exact_after_kill_9(settings: Settings, make_worker: MakeWorker) -> None:
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    traffic = Traffic(settings, seed)
    worker = make_worker(settings)
    with traffic.flowing(1500):
        for _ in range(3):
            worker.ready()
            time.sleep(moments.random())
            worker.kill()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
