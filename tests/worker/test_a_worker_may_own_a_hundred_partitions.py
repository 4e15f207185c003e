from pathlib import Path

import pytest

from stream.settings import Settings
from stream.trial.worker_process import WORKER, WorkerProcess
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, refusal
from tests.workers import Traffic, check_exact, wait_applied

N_PARTITIONS = 100
# A busy machine takes a minute for a hundred databases and their producers.
DEADLINE_S = 200.0


def limited(settings: Settings, folder: Path, limit: str) -> WorkerProcess:
    return WorkerProcess(settings, folder / "worker.log", ("sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *WORKER))


def n_descriptors(worker: WorkerProcess) -> int:
    return len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))


@pytest.fixture
def wide(broker: Broker, settings_on: MakeSettingsOn) -> Settings:
    return settings_on(broker.brokers, partitions=N_PARTITIONS)


def test_a_worker_may_own_a_hundred_partitions_under_the_usual_limit(wide: Settings, tmp_path: Path) -> None:
    traffic = Traffic(wide, seed=10)
    with limited(wide, tmp_path, "-Sn 1024") as worker:
        worker.ready(DEADLINE_S)
        traffic.send(2_000)
        wait_applied(wide, worker)
        assert n_descriptors(worker) > 1_024
        assert worker.terminate() == 0, worker.output()
    check_exact(wide, traffic.sent)


def test_a_limit_that_all_partitions_do_not_fit_into_is_refused_at_the_start(wide: Settings, tmp_path: Path) -> None:
    with limited(wide, tmp_path, "-n 1024") as worker:
        said = refusal(worker, 2)
    assert "too few files may be open for every partition, which one worker may come to own: limit=1024" in said
    assert f"topics.partitions={N_PARTITIONS}; raise the hard limit" in said


def test_databases_share_a_limit_that_is_too_low_for_what_was_set(wide: Settings, tmp_path: Path) -> None:
    with limited(wide, tmp_path, "-n 5000") as worker:
        worker.ready(DEADLINE_S)
        assert "open_files_max=25 state.open_files_max=512 topics.partitions=100 limit=5000" in worker.output()
        assert n_descriptors(worker) < 2_500
        assert worker.terminate() == 0, worker.output()
