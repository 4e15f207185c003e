import json
import subprocess
from pathlib import Path

import pytest

from tests.brokers import kafka_home
from tests.conftest import NO_KAFKA
from tests.workers import LURM


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_three_minutes_of_random_faults_change_no_count(tmp_path: Path) -> None:
    """`lurm soak` with all its faults; its seed is in what is printed on a failure."""
    if kafka_home() is None:
        pytest.skip(NO_KAFKA)
    folder = tmp_path / "soak"
    command: list[str | Path] = [LURM, "soak", "--minutes", "3", "--dir", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads(done.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert (summary["equal"], summary["differences"]) == (True, [])
    assert {"kill_worker", "lose_disk", "erase_user", "zombie", "kill_broker"} <= summary["faults"].keys(), summary
    assert min(summary["faults"].values()) > 0, summary
    assert min(summary[name] for name in ("events_sent", "poison_sent", "rolled_up_rows", "embeddings_read")) > 0, (
        summary
    )
    assert not list(folder.glob("state-*")), "a soak that found nothing keeps its logs only"
