import signal

from stream.operations.erasure_request import request
from stream.settings import Settings
from tests.erasures import check_exact_without, life, receipt_of
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, wait_applied


def test_sigterm_during_an_erasure_finishes_it(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=67), make_worker(settings)
    traffic.send(200)
    traffic.send_these(life("ann", 4))
    asked = request(settings, ["ann"])
    halted_at(worker, "erase.sent")
    traffic.send(200)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    assert worker.wait() == 0, worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact_without(settings, [receipt_of(settings, asked)])
    check_disk(worker)
