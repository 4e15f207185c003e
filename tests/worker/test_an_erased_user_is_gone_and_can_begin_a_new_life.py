from stream.settings import Settings
from tests.erasures import check_exact_without, erased, events_by_place, totals
from tests.plain import PlainEvent
from tests.worker.conftest import MakeWorker
from tests.workers import FIRST_DAY, MS_PER_DAY, Traffic, check_exact, check_published, wait_applied


def test_an_erased_user_is_gone_and_can_begin_a_new_life(one_settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(one_settings, seed=61)
    life = [PlainEvent(b"ann", number % 7, (FIRST_DAY + number) * MS_PER_DAY) for number in range(5)]
    traffic.send(300)
    traffic.send_these(life)
    worker = make_worker(one_settings).ready()
    wait_applied(one_settings, worker)
    check_exact(one_settings, traffic.sent)
    check_published(one_settings)

    receipt = erased(one_settings, "ann")
    assert (totals(receipt), receipt.verified.ok) == ({"rows": 5, "marks": 0, "caches": 0}, True)
    changelog = check_exact_without(one_settings, [receipt])
    assert b"ann" not in changelog.newest_seq()
    (place,) = [each for each in receipt.partitions if each.removed.rows]
    assert place.last_row_tombstone - place.first_row_tombstone == 4
    assert place.embedding_tombstone is not None
    assert receipt.left.rows.records == 5

    traffic.send_these(life[:2])
    wait_applied(one_settings, worker)
    changelog = check_exact_without(one_settings, [receipt])
    assert b"ann" in changelog.newest_seq()
    assert len([event for event in events_by_place(one_settings).values() if event.user == b"ann"]) == 7
    assert worker.metric("lurm_erasures_total") == one_settings.topics.partitions
