"""Alerts on what goes wrong slowly fire when it really does: late embeddings, standbys, rebalances and disks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.settings import Settings, State
from stream.trial.embedded_broker import free_ports
from tests.brokers import Broker
from tests.conftest import KINDS
from tests.deploy.scene import Replacements, Scene, scene
from tests.small_disk import SmallDisk, small_disk
from tests.workers import WorkerProcess, second, wait_until

# What fills the disk twice; a worker's own files stay far below.
BALLAST_BYTES = 200 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """A disk of the worker's own where mounting is allowed, else the one that tests run on."""
    with small_disk(tmp_path_factory.mktemp("disk") / "small") as disk:
        yield disk


@pytest.fixture(scope="module")
def running(
    prometheus_tools: None,
    disk: SmallDisk,
    session_brokers: dict[str, Broker],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    broker, state = session_brokers[KINDS[-1]].start(), State(dir=disk.path / "state", standbys=1)
    with scene(broker, tmp_path_factory.mktemp("scene"), state, rules_for(disk.path)) as made:
        yield made


def rules_for(disk: Path) -> Replacements:
    """One ballast makes the disk fill, a second makes it full, however large it is; hours become seconds."""
    total, _, free = shutil.disk_usage(disk)
    halves, window_s = free / BALLAST_BYTES * 2, 10
    return (
        (r"\[6h\], 86400", f"[{window_s}s], {halves * window_s:.0f}"),
        (r"< 0\.5", f"< {(free - BALLAST_BYTES / 2) / total:.6f}"),
        (r"< 0\.1", f"< {(free - BALLAST_BYTES * 3 / 2) / total:.6f}"),
    )


@pytest.mark.slow
@pytest.mark.kafka
def test_a_standby_that_cannot_keep_up_is_told(running: Scene, kafka_broker: Broker) -> None:
    assert running.broker is kafka_broker, "the embedded one would keep the standby in the group for ever"
    other = beside(running.settings, "b")
    copies = f'lurm_partitions{{role="standby",instance="127.0.0.1:{other.metrics.port}"}}'
    kafka = other.kafka.model_copy(update={"poll_events": 20})
    running.scrape(running.settings, other)
    with WorkerProcess(other.model_copy(update={"kafka": kafka}), running.folder / "standby.log") as worker:
        # Not yet in the recovery of the partition that it owns.
        worker.start("recovery.replayed:100+=1").ready()
        running.wait_firing("LurmStandbyBehind")
        worker.kill()
        worker.ready()
        wait_until(lambda: running.query(f"{copies} == 1"), explain=worker.output)
        running.wait_over("LurmStandbyBehind")
    running.scrape(running.settings)


def test_a_group_that_workers_join_and_leave_in_a_row_is_told(running: Scene) -> None:
    running.worker.ready()
    alert = ("LurmRebalancing", "")
    assert alert not in running.firing()
    other = beside(running.settings, "c")
    # Without a name of its own it leaves at once.
    other = other.model_copy(update={"worker": other.worker.model_copy(update={"instance": ""})})
    with WorkerProcess(other, running.folder / "other.log") as worker:
        for _ in range(7):
            worker.ready()
            assert worker.terminate() == 0, worker.output()
            if alert in running.firing():
                break
    running.wait_firing("LurmRebalancing")


def test_embeddings_that_are_late_burn_the_budget_fast_and_slowly(running: Scene) -> None:
    alerts = ("LurmFreshnessBurnFast", "LurmFreshnessBurnSlow")
    running.wait_over(*alerts)
    assert running.worker.ready().terminate() == 0
    running.worker.start("encode.started:1+=6").ready()
    for alert in alerts:
        running.wait_firing(alert)
    assert running.worker.terminate() == 0
    running.wait_over(*alerts)


def test_a_disk_that_fills_is_told_before_it_is_full(running: Scene, disk: SmallDisk) -> None:
    running.worker.ready()
    files = [disk.path / "ballast-1", disk.path / "ballast-2"]
    take(files[0])
    running.wait_firing("LurmDiskFilling")
    assert "LurmDiskFull" not in {alert for alert, _ in running.firing()}
    # Nothing more is written.
    running.wait_over("LurmDiskFilling")
    take(files[1])
    running.wait_firing("LurmDiskFull")
    for file in files:
        file.unlink()
    running.wait_over("LurmDiskFull", "LurmDiskFilling")


def beside(settings: Settings, name: str) -> Settings:
    """Another worker of the application, whose metrics Prometheus can be told of."""
    other = second(settings, name)
    return other.model_copy(update={"metrics": other.metrics.model_copy(update={"port": free_ports(1)[0]})})


def take(file: Path) -> None:
    """Occupy the disk."""
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, BALLAST_BYTES)
