"""Files of the state that changed under the worker: it must neither count on with half of a life nor go on at all."""

import shutil

from stream.fatal import EXIT_FATAL
from stream.settings import Settings
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, wait_applied


def test_a_damaged_disk_ends_the_worker_and_costs_no_count(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, worker = Traffic(settings, seed=51), make_worker(settings).ready()
    traffic.send(3000)
    wait_applied(settings, worker)
    worker.kill()
    # Opening writes what stands in the log into files.
    worker.ready()
    assert worker.terminate() == 0, worker.output()
    assert settings.state.dir is not None
    folder = settings.state.dir / settings.app.id
    for partition in folder.glob("partition-*"):
        rows = max(partition.glob("*.sst"), key=lambda file: file.stat().st_size)
        content = bytearray(rows.read_bytes())
        begin = len(content) // 3
        content[begin : begin + 64] = bytes(64)
        rows.write_bytes(content)

    traffic.send(500)
    said = refusal(worker, EXIT_FATAL)
    assert "StoreCorrupt: cannot read the database: Corruption: block checksum mismatch" in said
    assert "remove the partition's folder and start again" in said
    for partition in folder.glob("partition-*"):
        shutil.rmtree(partition)
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
