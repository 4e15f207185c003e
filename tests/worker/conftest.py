"""Fixtures of whole-worker tests: one bundle per session, settings with fresh names, workers that end with the test."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stream.settings import Settings
from tests.brokers import Broker, new_broker
from tests.conftest import KINDS
from tests.workers import WorkerProcess, tiny_bundle, wait_until, worker_settings

MakeWorker = Callable[[Settings], WorkerProcess]
MakeSettingsOn = Callable[..., Settings]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "bundle"
    tiny_bundle().save(path)
    return path


@pytest.fixture
def settings_on(bundle: Path, tmp_path: Path) -> MakeSettingsOn:
    """Makes a worker's settings on any broker, with fresh topics that exist."""

    def make(brokers: str, **sections: Any) -> Settings:
        return worker_settings(brokers, tmp_path, bundle, **sections)

    return make


@pytest.fixture
def broker(session_brokers: dict[str, Broker]) -> Broker:
    """Real Kafka where there is one, else the embedded broker: whole workers take seconds, and what they do is one."""
    return session_brokers[KINDS[-1]].start()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, of that kind and not started: to be stopped, killed and started again."""
    broker = new_broker(KINDS[-1], tmp_path / "broker")
    yield broker
    broker.kill()


@pytest.fixture
def settings(broker: Broker, settings_on: MakeSettingsOn) -> Settings:
    """One worker's settings, with fresh topics that exist."""
    return settings_on(broker.brokers)


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    """Makes workers, not started yet, with a log file each."""
    with ExitStack() as stack:
        made = 0

        def make(settings: Settings) -> WorkerProcess:
            nonlocal made
            made += 1
            return stack.enter_context(WorkerProcess(settings, tmp_path / f"worker-{made}.log"))

        yield make


def handed_over(expected: Mapping[WorkerProcess, int]) -> None:
    """Wait until every worker is ready and owns its number of partitions."""

    def held() -> dict[WorkerProcess, float]:
        return {
            worker: worker.metric("lurm_ready") and worker.metric("lurm_partitions", role="active")
            for worker in expected
        }

    wait_until(lambda: held() == expected, explain=lambda: [worker.output() for worker in expected])


def refusal(worker: WorkerProcess, exit_code: int) -> str:
    """Start a worker that must end by itself; the one line that says why."""
    assert worker.start().wait() == exit_code, worker.output()
    lines = [line for line in worker.output().splitlines() if " INFO " not in line]
    assert len(lines) == 1, worker.output()
    return lines[0]
