import signal

from stream.embedding import Embedding, Erased
from stream.operations.erasure_request import request
from stream.settings import Settings
from tests.erasures import check_exact_without, life, receipt_of
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, all_published


def test_an_encode_in_flight_does_not_outlive_an_erasure(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=63), make_worker(settings)
    traffic.send_these(life("ann", 4))
    halted_at(worker, "encode.started")
    asked = request(settings, ["ann"])
    worker.signal(signal.SIGCONT)
    receipt = receipt_of(settings, asked)
    assert receipt.removed.rows == 4
    assert [type(each) for each in all_published(settings)] == [Embedding, Erased]
    check_exact_without(settings, [receipt])
    check_disk(worker)
