import socket
from contextlib import ExitStack
from pathlib import Path

from stream.settings import Settings
from stream.trial.worker_process import WORKER, WorkerProcess
from tests.workers import Traffic, check_exact, wait_applied

N_VISITORS = 1_000
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 1024 && exec "$@"', "sh", *WORKER)


def test_a_thousand_slow_visitors_keep_no_worker_from_working(settings: Settings, tmp_path: Path) -> None:
    traffic = Traffic(settings, seed=9)
    with WorkerProcess(settings, tmp_path / "worker.log", FEW_DESCRIPTORS) as worker, ExitStack() as visitors:
        worker.ready()
        assert worker.port is not None
        for _ in range(N_VISITORS):
            visitor = visitors.enter_context(socket.create_connection(("127.0.0.1", worker.port)))
            visitor.sendall(b"GET /metrics HTTP/1.1\r\n")
        threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))
        descriptors = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        assert (threads < 100, descriptors < 400) == (True, True), (threads, descriptors)
        traffic.send(500)
        wait_applied(settings, worker)
        assert worker.get("/livez")[0] == worker.get("/readyz")[0] == 200
        assert worker.terminate() == 0, worker.output()
    check_exact(settings, traffic.sent)
