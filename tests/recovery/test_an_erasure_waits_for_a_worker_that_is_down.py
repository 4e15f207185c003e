from stream.settings import Settings
from tests.erasures import check_exact_without, erased, life, lurm
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, wait_applied


def test_an_erasure_waits_for_a_worker_that_is_down(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=64), make_worker(settings)
    traffic.send(200)
    traffic.send_these(life("ann", 4))
    worker.ready()
    wait_applied(settings, worker)
    worker.kill()
    # Never applied, and never to be: they stand below the end that the erasure names.
    traffic.send_these(life("ann", 9))
    traffic.send(100)
    refused = lurm(settings, "erase", "ann", "--timeout", "1")
    assert refused.exit_code == 1
    assert "the erasure is not finished: partitions=[0, 1] waited_s=1;" in str(refused.exception)
    worker.ready()
    receipt = erased(settings, "ann")
    (late,) = receipt.earlier
    assert receipt.removed.rows == 0
    assert sum(part.removed.rows for part in late.partitions) == 4
    wait_applied(settings, worker)
    changelog = check_exact_without(settings, [receipt])
    assert b"ann" not in changelog.newest_seq()
    assert changelog.ledger.skipped == 9
    check_disk(worker)
