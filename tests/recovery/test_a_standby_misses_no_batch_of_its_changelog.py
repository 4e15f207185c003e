"""A batch that waits for a standby when Faust turns its flow on must not be thrown away: later rows stand on it."""

import signal
import sys
import time
from pathlib import Path

import pytest

from stream.settings import State
from tests.brokers import Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import (
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    second,
    wait_applied,
    wait_until,
)

EMPTIED = Path(__file__).with_name("emptied_worker.py")


@pytest.mark.kafka
def test_a_standby_misses_no_batch_of_its_changelog(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = settings_on(kafka_broker.brokers, state=State(dir=tmp_path / "state", standbys=1))
    traffic, owner = Traffic(settings, seed=86), make_worker(second(settings)).ready()
    with WorkerProcess(settings, tmp_path / "standby.log", [sys.executable, EMPTIED]) as standby:
        standby.ready()
        handed_over({owner: 1, standby: 1})
        wait_until(lambda: standby.metric("lurm_partitions", role="standby") == 1)
        with traffic.flowing(500):
            for _ in range(4):
                time.sleep(0.5)
                standby.signal(signal.SIGRTMIN)
        wait_applied(settings, owner, standby)
        wait_until(lambda: standby.metric("lurm_standby_lag_rows") == 0, explain=standby.output)
        owner.kill()
        handed_over({standby: 2})
        traffic.send(500)
        wait_applied(settings, standby)
        check_exact(settings, traffic.sent)
        check_published(settings)
        check_disk(standby)
