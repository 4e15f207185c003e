import json
import subprocess
from pathlib import Path

from stream.settings import Settings
from tests.brokers import environment_of
from tests.ledgers import lose_one
from tests.worker.conftest import MakeWorker
from tests.workers import LURM, Traffic, wait_applied, wait_until


def test_a_broken_ledger_is_seen_by_whoever_watches(settings: Settings, make_worker: MakeWorker) -> None:
    """A committed record that says one event less was applied than received: the metrics and the command both tell."""
    traffic = Traffic(settings, seed=12)
    worker = make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    wait_until(lambda: worker.metric("lurm_ledger_events", outcome="received") == 500)
    assert worker.metric("lurm_ledger_events", outcome="applied") == 500
    assert worker.metric("lurm_ledger_broken") == 0
    assert ledger_command(settings)[0] == 0
    worker.terminate()

    received = lose_one(settings, partition=1)
    worker.ready()
    wait_until(lambda: worker.metric("lurm_ledger_broken") == 1, explain=worker.output)
    assert worker.metric("lurm_ledger_events", partition="1", outcome="received") == received
    assert worker.metric("lurm_ledger_events", partition="1", outcome="applied") == received - 1
    exit_code, partitions = ledger_command(settings)
    assert (exit_code, [each["faults"] for each in partitions]) == (1, [[], ["unbalanced"]])


def ledger_command(settings: Settings) -> tuple[int, list[dict]]:
    command: list[str | Path] = [LURM, "inspect", "--ledger", "--json"]
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["partitions"]
