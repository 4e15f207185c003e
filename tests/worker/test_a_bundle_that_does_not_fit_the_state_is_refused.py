import shutil
from pathlib import Path

from stream.settings import Settings, State
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, tiny_bundle, wait_applied


def test_a_bundle_that_does_not_fit_the_state_is_refused(
    one_settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    worker = make_worker(one_settings).ready()
    Traffic(one_settings, seed=12).send(100)
    wait_applied(one_settings, worker)
    assert worker.terminate() == 0

    tiny_bundle(space_seed=1).save(tmp_path / "space")
    tiny_bundle(scales="day,week").save(tmp_path / "scales")
    space, scales = with_bundle(one_settings, tmp_path / "space"), with_bundle(one_settings, tmp_path / "scales")
    assert one_settings.state.dir is not None
    for disk in ("intact", "empty"):
        assert "counted with another codebook" in refusal(make_worker(space), 2), disk
        assert "counted with other scales" in refusal(make_worker(scales), 2), disk
        shutil.rmtree(one_settings.state.dir)
    other = one_settings.model_copy(update={"state": State(dir=one_settings.state.dir, scales="day")})
    assert "trained with other scales" in refusal(make_worker(other), 2)


def with_bundle(settings: Settings, path: Path) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"bundle": path})})
