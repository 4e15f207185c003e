import sys
from pathlib import Path

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Worker
from tests.brokers import Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    is_applied,
    wait_applied,
    wait_until,
)

# `lurm worker` with a thread that its interpreter waits for.
UNENDING = """
import threading, time
from stream.cli import run
threading.Thread(target=time.sleep, args=(300,)).start()
raise SystemExit(run(["worker"]))
"""


@pytest.mark.parametrize("when", ["while it hands over", "after all else has ended"])
def test_a_worker_that_cannot_end_is_ended_within_its_grace(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path, when: str
) -> None:
    settings = settings_on(broker.brokers, worker=Worker(instance="a", stop_s_max=5.0))
    traffic = Traffic(settings, seed=71)
    traffic.send(1000)
    worker = make_worker(settings)
    with WorkerProcess(settings, tmp_path / "unending.log", (sys.executable, "-c", UNENDING)) as unending:
        hands_over = when == "while it hands over"
        stuck = worker.start("encode.started:1=300") if hands_over else unending.start()
        wait_until(lambda: is_applied(settings) and stuck.metric("lurm_ready"), explain=stuck.output)
        assert stuck.terminate() == EXIT_FATAL, stuck.output()
    assert "the end has not moved for" in stuck.output()
    worker.ready()
    assert {how: worker.metric("lurm_exits_total", how=how) for how in ("stopped", "watchdog")} == {
        "stopped": 0,
        "watchdog": 1,
    }
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
