import signal
import time

from stream.settings import Settings
from tests.worker.conftest import MakeWorker, handed_over
from tests.workers import Traffic, check_exact, check_published, second, wait_applied, wait_until


def test_an_encode_in_flight_is_finished_before_its_partition_is_given_up(
    settings: Settings, make_worker: MakeWorker
) -> None:
    """It has yet to read its rows when another worker joins: its iterator must not meet a closed store."""
    traffic = Traffic(settings, seed=42)
    worker, other = make_worker(settings), make_worker(second(settings))
    worker.start("encode.started:1=6")
    worker.ready()
    other.start()
    while other.port is None:
        assert other.returncode is None, other.output()
        time.sleep(0.002)
    other.signal(signal.SIGSTOP)
    traffic.send(500)
    wait_until(lambda: worker.metric("lurm_dirty_users") > 0)
    assert worker.output().count("assigned:") == 1, "the other one joined too early"
    other.signal(signal.SIGCONT)
    wait_until(lambda: worker.output().count("assigned:") > 1 or worker.returncode is not None, explain=worker.output)
    assert worker.metric("lurm_embeddings_published_total") > 0, "the encode was finished first"
    handed_over({worker: 1, other: 1})
    traffic.send(500)
    wait_applied(settings, worker, other)
    check_exact(settings, traffic.sent)
    check_published(settings)
    assert (worker.terminate(), other.terminate()) == (0, 0)
