from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, wait_applied, wait_until


def test_of_two_workers_on_one_empty_folder_one_is_refused(settings: Settings, make_worker: MakeWorker) -> None:
    """Neither has a database open when they start, so no lock of RocksDB tells them."""
    traffic = Traffic(settings, seed=24)
    assert settings.state.dir is not None
    other = settings.model_copy(update={"worker": settings.worker.model_copy(update={"instance": "b"})})
    workers = [make_worker(settings).start(), make_worker(other).start()]
    wait_until(lambda: any(worker.returncode is not None for worker in workers))
    ((refused, kept),) = [pair for pair in (workers, workers[::-1]) if pair[0].returncode is not None]
    assert refused.returncode == 1
    assert f"another process works in the state's folder: pid={kept.pid} path={settings.state.dir}" in refused.output()
    kept.ready()
    traffic.send(500)
    wait_applied(settings, kept)
    assert kept.terminate() == 0, kept.output()
    assert refused.ready().terminate() == 0, "a folder is free once its process is gone"
    check_exact(settings, traffic.sent)
