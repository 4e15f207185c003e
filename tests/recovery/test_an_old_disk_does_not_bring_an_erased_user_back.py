import shutil

from stream.settings import Settings
from tests.erasures import check_exact_without, erased, life
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, wait_applied


def test_an_old_disk_does_not_bring_an_erased_user_back(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=66), make_worker(settings)
    traffic.send(200)
    traffic.send_these(life("ann", 5))
    worker.ready()
    wait_applied(settings, worker)
    # Killed, so that the copy holds whatever was dirty then, ann perhaps among it.
    worker.kill()
    disk = settings.state.dir
    assert disk is not None
    shutil.copytree(disk, disk.with_name("old"))
    worker.ready()
    receipt = erased(settings, "ann")
    assert receipt.removed.rows == 5
    traffic.send_these(life("ann", 2)[1:])
    wait_applied(settings, worker)
    worker.kill()
    shutil.rmtree(disk)
    disk.with_name("old").rename(disk)
    worker.ready()
    traffic.send(50)
    wait_applied(settings, worker)
    check_exact_without(settings, [receipt])
    check_disk(worker)
