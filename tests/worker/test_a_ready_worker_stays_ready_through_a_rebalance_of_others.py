"""A rebalance that brings a worker nothing new is none of the outside's business; one that does is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stream.settings import Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, WorkerProcess, check_exact, second, wait_applied


@contextmanager
def watched(worker: WorkerProcess) -> Iterator[list[int]]:
    """What `/readyz` answers while the block runs, as often as it can be asked."""
    answers: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            answers.append(worker.get("/readyz")[0])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_ready_worker_stays_ready_through_a_rebalance_of_others(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(broker.brokers, worker=Worker())
    traffic = Traffic(settings, seed=9)
    first, other = make_worker(settings).ready(), make_worker(second(settings))
    with traffic.flowing(500):
        n_rebalances = first.metric("lurm_rebalances_total")
        with watched(first) as answers:
            other.ready()
            handed_over({first: 1, other: 1})
        assert set(answers) == {200}
        assert first.metric("lurm_rebalances_total") > n_rebalances
        assert other.terminate() == 0, other.output()
        handed_over({first: 2})
    wait_applied(settings, first)
    check_exact(settings, traffic.sent)
    with watched(first) as answers:
        assert first.terminate() == 0, first.output()
    assert 503 in answers, "told to stop, it says so before it stops answering"
