from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, wait_applied, wait_until


def test_of_two_workers_on_one_empty_folder_one_is_refused(one_settings: Settings, make_worker: MakeWorker) -> None:
    """Neither has a database open when they start, so no lock of RocksDB tells them."""
    traffic = Traffic(one_settings, seed=24)
    assert one_settings.state.dir is not None
    other = one_settings.model_copy(update={"worker": one_settings.worker.model_copy(update={"instance": "b"})})
    workers = [make_worker(one_settings).start(), make_worker(other).start()]
    wait_until(lambda: any(worker.returncode is not None for worker in workers))
    ((refused, kept),) = [pair for pair in (workers, workers[::-1]) if pair[0].returncode is not None]
    assert refused.returncode == 1
    assert (
        f"another process works in the state's folder: pid={kept.pid} path={one_settings.state.dir}" in refused.output()
    )
    kept.ready()
    traffic.send(500)
    wait_applied(one_settings, kept)
    assert kept.terminate() == 0, kept.output()
    assert refused.ready().terminate() == 0, "a folder is free once its process is gone"
    check_exact(one_settings, traffic.sent)
