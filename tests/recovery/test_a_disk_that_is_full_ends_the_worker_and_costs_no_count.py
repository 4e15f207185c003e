import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Kafka, Settings, State
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk, halted_at
from tests.small_disk import SmallDisk, small_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, wait_applied

LEFT_BYTES = 16 << 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small") as disk:
        yield disk


@pytest.fixture
def on_disk(disk: SmallDisk, broker: Broker, settings_on: MakeSettingsOn) -> Settings:
    """Small batches, and the state on the disk."""
    kafka = Kafka(brokers=broker.brokers, **FAST | {"poll_events": 100})
    return settings_on(broker.brokers, kafka=kafka, state=State(dir=disk.path / "state"))


def test_a_disk_that_is_full_while_batches_are_applied_costs_no_count(
    disk: SmallDisk, on_disk: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(on_disk, seed=37)
    traffic.send(500)
    worker = make_worker(on_disk).ready()
    wait_applied(on_disk, worker)
    disk.leave(LEFT_BYTES, worker)
    traffic.send(5000)
    ends_in_one_line(worker)
    disk.enlarge()
    go_on(worker, traffic)


def test_a_disk_that_is_full_during_recovery_costs_no_count(
    disk: SmallDisk, on_disk: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(on_disk, seed=38)
    traffic.send(5000)
    worker = make_worker(on_disk).ready()
    wait_applied(on_disk, worker)
    assert worker.terminate() == 0
    assert on_disk.state.dir is not None
    shutil.rmtree(on_disk.state.dir)
    halted_at(worker, "recovery.replayed")
    disk.leave(LEFT_BYTES, worker)
    worker.signal(signal.SIGCONT)
    ends_in_one_line(worker)
    disk.enlarge()
    go_on(worker, traffic)


def ends_in_one_line(worker: WorkerProcess) -> None:
    assert worker.wait() == EXIT_FATAL, worker.output()
    assert "StoreUnavailable: cannot write to the database" in worker.output()


def go_on(worker: WorkerProcess, traffic: Traffic) -> None:
    worker.ready()
    # These are encoded last, so that whoever the recovery left dirty is published before.
    traffic.send(200)
    wait_applied(worker.settings, worker)
    check_exact(worker.settings, traffic.sent)
    check_published(worker.settings)
    check_disk(worker)
