import shutil
from pathlib import Path

import pytest

from stream.settings import Settings, State
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, tiny_bundle, wait_applied


@pytest.mark.slow
def test_a_bundle_that_does_not_fit_the_state_is_refused(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    worker = make_worker(settings).ready()
    Traffic(settings, seed=12).send(100)
    wait_applied(settings, worker)
    assert worker.terminate() == 0

    tiny_bundle(space_seed=1).save(tmp_path / "space")
    tiny_bundle(scales="day,week").save(tmp_path / "scales")
    space, scales = with_bundle(settings, tmp_path / "space"), with_bundle(settings, tmp_path / "scales")
    assert settings.state.dir is not None
    for disk in ("intact", "empty"):
        assert "counted with another codebook" in refusal(make_worker(space), 2), disk
        assert "counted with other scales" in refusal(make_worker(scales), 2), disk
        shutil.rmtree(settings.state.dir)
    other = settings.model_copy(update={"state": State(dir=settings.state.dir, scales="day")})
    assert "trained with other scales" in refusal(make_worker(other), 2)


def with_bundle(settings: Settings, path: Path) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"bundle": path})})
