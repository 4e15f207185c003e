"""Faust would acknowledge the batch in which an agent failed, and go on with the next."""

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Settings
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


@pytest.mark.parametrize("step", ["batch.decoded", "batch.merged", "batch.sent", "encode.started"])
def test_an_exception_that_nobody_expects_ends_the_worker(
    settings: Settings, make_worker: MakeWorker, step: str
) -> None:
    traffic, worker = Traffic(settings, seed=54), make_worker(settings)
    traffic.send(500)
    worker.start(f"{step}=raise")
    assert worker.wait() == EXIT_FATAL, worker.output()
    assert f"the worker ends: RuntimeError: raised at a failpoint: step={step}" in worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
