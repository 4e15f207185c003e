import json
import os
import shutil
import subprocess
from pathlib import Path

from stream.settings import App, Settings
from tests.brokers import environment_of
from tests.worker.conftest import MakeWorker
from tests.workers import LURM, Changelog, Traffic, check_exact, check_published, wait_applied, wait_until


def test_a_snapshot_taken_under_load_restores_a_worker_exactly_and_only_the_tail_is_replayed(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    out = tmp_path / "snapshot"
    assert settings.state.dir is not None
    traffic = Traffic(settings, seed=41)
    worker = make_worker(settings).ready()
    traffic.send(3000)
    wait_applied(settings, worker)
    with traffic.flowing(500):
        code, said = lurm(settings, "snapshot", "--out", str(out))
    assert code == 0, said
    assert all(f"partition {number}: rows=" in said for number in range(settings.topics.partitions))
    assert lurm(settings, "snapshot", "--out", str(out))[0] == 2, "never over another"
    wait_applied(settings, worker)
    code, said = lurm(settings, "restore", "--from", str(out))
    assert (code, "is its worker stopped?" in said) == (2, True), said
    worker.kill()

    code, said = lurm(settings, "restore", "--from", str(out))
    assert (code, "the state is newer than the snapshot" in said) == (2, True), said
    stranger = settings.model_copy(update={"app": App(id="stranger")})
    assert lurm(stranger, "restore", "--from", str(out))[0] == 2
    shutil.rmtree(settings.state.dir)
    assert lurm(settings, "restore", "--from", str(out))[0] == 0
    offsets = {number: offset_of(out, number) for number in range(settings.topics.partitions)}
    records = Changelog(settings).records
    tail = sum(record.offset > offsets[record.partition] for record in records)
    assert 0 < tail < len(records)

    restored = make_worker(settings).ready()
    # Faust reads the last applied record of each partition once more.
    assert restored.metric("lurm_replayed_rows_total") <= tail + settings.topics.partitions
    traffic.send(300)
    wait_applied(settings, restored)
    check_exact(settings, traffic.sent)
    check_published(settings)
    wait_until(lambda: restored.metric("lurm_dirty_users") == 0)
    restored.kill()
    code, said = lurm(settings, "snapshot", "--out", str(tmp_path / "stopped"), "--partition", "1")
    assert (code, sorted(path.name for path in (tmp_path / "stopped").iterdir())) == (0, ["partition-1"]), said


def lurm(settings: Settings, *arguments: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LURM_")}
    done = subprocess.run(
        [LURM, *arguments], env=environment | environment_of(settings), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def offset_of(folder: Path, number: int) -> int:
    manifest = json.loads((folder / f"partition-{number}" / "manifest.json").read_text())
    return int(manifest["changelog_offset"])
