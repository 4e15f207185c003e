"""Its owner is ahead of what Faust's consumer has fetched: rows applied again would stand over newer ones."""

import signal
import sys
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, wait_applied

REREADING = Path(__file__).with_name("rereading_worker.py")


@pytest.mark.kafka
def test_a_changelog_that_is_read_again_puts_no_old_row_over_a_new_one(
    kafka_broker: Broker, settings_on: MakeSettingsOn, tmp_path: Path
) -> None:
    settings = settings_on(kafka_broker.brokers)
    traffic = Traffic(settings, seed=85)
    with WorkerProcess(settings, tmp_path / "worker.log", [sys.executable, REREADING]) as worker:
        worker.ready()
        replayed = worker.metric("lurm_replayed_rows_total")
        with traffic.flowing(1000):
            wait_applied(settings, worker, share=0.2)
            worker.signal(signal.SIGRTMIN)
            traffic.send(20_000)
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
        check_published(settings)
        assert worker.metric("lurm_replayed_rows_total") == replayed
        check_disk(worker)
