import signal

from stream.embedding import Embedding, Erased
from stream.operations.erasure_request import request
from stream.settings import Settings
from tests.erasures import check_exact_without, life, receipt_of
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, all_published


def test_an_encode_in_flight_does_not_outlive_an_erasure(one_settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(one_settings, seed=63), make_worker(one_settings)
    traffic.send_these(life("ann", 4))
    halted_at(worker, "encode.started")
    asked = request(one_settings, ["ann"])
    worker.signal(signal.SIGCONT)
    receipt = receipt_of(one_settings, asked)
    assert receipt.removed.rows == 4
    assert [type(each) for each in all_published(one_settings)] == [Embedding, Erased]
    check_exact_without(one_settings, [receipt])
    check_disk(worker)
