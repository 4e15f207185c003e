import socket

from stream.settings import Settings
from tests.worker.conftest import MakeWorker


def test_a_visitor_who_says_nothing_keeps_no_worker_from_ending(settings: Settings, make_worker: MakeWorker) -> None:
    worker = make_worker(settings).ready()
    assert worker.port is not None
    with socket.create_connection(("127.0.0.1", worker.port)):
        assert worker.get("/livez")[0] == 200
        assert worker.terminate() == 0, worker.output()
