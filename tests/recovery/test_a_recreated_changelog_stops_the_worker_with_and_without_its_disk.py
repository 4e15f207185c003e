import shutil

from stream.settings import Settings
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, recreate, stopped_after


def test_a_recreated_changelog_stops_the_worker_with_and_without_its_disk(
    one_settings: Settings, make_worker: MakeWorker
) -> None:
    worker = make_worker(one_settings)
    stopped_after(worker, Traffic(one_settings, seed=17))
    recreate(one_settings, one_settings.changelog_topic)
    assert "the changelog is shorter than what was applied; was it recreated?" in refusal(worker, 1)
    assert one_settings.state.dir is not None
    shutil.rmtree(one_settings.state.dir)
    assert "the changelog is behind the group's offset; was it deleted?" in refusal(worker, 1)
