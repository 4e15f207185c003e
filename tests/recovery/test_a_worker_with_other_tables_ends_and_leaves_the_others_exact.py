"""What it would count begins at nothing, in a changelog of its own, while the group's offsets go on."""

import sys
from pathlib import Path

import pytest

from stream.settings import State, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import DEADLINE_S, Traffic, WorkerProcess, check_exact, check_published, second, wait_applied

OTHER = Path(__file__).with_name("other_tables_worker.py")


@pytest.mark.parametrize("standbys", [0, 1])
def test_a_worker_with_other_tables_ends_and_leaves_the_others_exact(
    one_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path, standbys: int
) -> None:
    state = State(dir=tmp_path / "state", standbys=standbys)
    settings = settings_on(one_broker.brokers, worker=Worker(), state=state)
    traffic, worker = Traffic(settings, seed=57), make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    with traffic.flowing(200):
        with WorkerProcess(second(settings), tmp_path / "other.log", [sys.executable, OTHER]) as other:
            assert other.start().wait(2 * DEADLINE_S) == 1, other.output()
            assert "the changelog is behind the group's offset" in other.output()
        handed_over({worker: 2})
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
