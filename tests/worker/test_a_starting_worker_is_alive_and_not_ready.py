from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import wait_until


def test_a_starting_worker_is_alive_and_not_ready(settings: Settings, make_worker: MakeWorker) -> None:
    """A supervisor that asks /livez must not end a worker in a long recovery."""
    worker = make_worker(settings).start()
    wait_until(lambda: worker.get("/livez")[0] != 0 or worker.returncode is not None, explain=worker.output)
    answers: list[tuple[int, int]] = []
    while not answers or answers[-1][1] != 200:
        answers.append((worker.get("/livez")[0], worker.get("/readyz")[0]))
        assert worker.returncode is None, worker.output()
    assert set(answers) == {(200, 503), (200, 200)}
