import random
import time

from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


def test_sigterm_under_load_loses_and_doubles_nothing(settings: Settings, make_worker: MakeWorker) -> None:
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    traffic = Traffic(settings, seed)
    worker = make_worker(settings)
    with traffic.flowing(1500):
        for _ in range(2):
            worker.ready()
            time.sleep(moments.random())
            assert worker.terminate() == 0, worker.output()
            assert not {"ERROR", "CRITICAL", "Traceback"} & set(worker.output().split()), worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
