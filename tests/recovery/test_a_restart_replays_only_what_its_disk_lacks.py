import shutil
from collections import Counter

from state.rows import seq_of
from stream.settings import Encode, Settings
from tests.worker.conftest import MakeWorker
from tests.workers import (
    Changelog,
    Traffic,
    check_exact,
    check_published,
    embeddings,
    wait_applied,
    wait_until,
)


def test_a_restart_replays_only_what_its_disk_lacks_and_publishes_only_what_was_not(
    settings: Settings, make_worker: MakeWorker
) -> None:
    seldom = settings.model_copy(update={"encode": Encode(interval_s=86_400)})
    early, late = Traffic(settings, seed=9, prefix="early"), Traffic(settings, seed=10, prefix="late")

    first = make_worker(settings).ready()
    early.send(2000)
    wait_applied(settings, first)
    check_published(settings)
    wait_until(lambda: everything_is_noted_as_published(settings))
    first.kill()

    on_its_disk = make_worker(seldom).ready()
    assert on_its_disk.metric("lurm_replayed_rows_total") <= 2 * settings.topics.partitions
    late.send(1000)
    wait_applied(settings, on_its_disk)
    changelog = check_exact(settings, early.sent + late.sent)
    before = n_published(settings)
    on_its_disk.kill()
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)

    on_an_empty_disk = make_worker(settings).ready()
    assert on_an_empty_disk.metric("lurm_replayed_rows_total") >= len(changelog.records)
    check_published(settings)
    again = n_published(settings) - before
    assert again.keys() == {event.user.decode() for event in late.sent}, "only what was unpublished"
    assert set(again.values()) == {1}


def n_published(settings: Settings) -> Counter[str]:
    return Counter(each.user_id for each in embeddings(settings))


def everything_is_noted_as_published(settings: Settings) -> bool:
    records = Changelog(settings).partitions.values()
    return all(record.published == seq_of(record.epoch, record.next_offset) for record in records)
