import json

from stream.embedding import Erased
from stream.operations.receipt import Removed
from stream.settings import Settings
from tests.brokers import producer
from tests.erasures import check_exact_without, erased, life, lurm
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, all_published, check_exact, check_published, wait_applied


def test_an_erased_user_is_gone_and_can_begin_a_new_life(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, ann = Traffic(settings, seed=61), life("ann", 5)
    traffic.send(300)
    traffic.send_these(ann)
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    assert lurm(settings, "inspect", "ann").exit_code == 0

    receipt = erased(settings, "ann")
    assert (receipt.user_id, receipt.removed.rows, receipt.removed.caches, receipt.verified.ok) == ("ann", 5, 1, True)
    assert (receipt.verified.new_life, receipt.verified.stores) == (False, Removed(rows=0, marks=0, caches=0))
    (held,) = [each for each in receipt.partitions if each.removed.rows]
    assert (held.last_row_tombstone or 0) - (held.first_row_tombstone or 0) == 4
    assert [Erased("ann")] == [each for each in all_published(settings) if isinstance(each, Erased)]
    assert any("state folders" in copy.where and "6 days" in copy.gone for copy in receipt.left.copies)
    assert receipt.left.events is not None
    assert [(each.partition, each.records) for each in receipt.left.events] == [(held.partition, 5)]
    assert (receipt.left.rows.records, receipt.left.embeddings.records > 0) == (5, True)
    assert b"ann" not in check_exact_without(settings, [receipt]).newest_seq()
    check_unknown(settings, "ann")

    again = erased(settings, "ann", "--skip-events")
    assert (again.removed.rows, again.left.events, len(again.left.rows.note) > 0) == (0, None, True)
    assert [each.id for each in again.earlier] == [receipt.id]
    assert again.earlier[0].partitions == receipt.partitions
    assert all(part.embedding_tombstone is None for part in again.partitions)

    traffic.send_these(ann[:2])
    wait_applied(settings, worker)
    assert b"ann" in check_exact_without(settings, [receipt, again]).newest_seq()
    assert lurm(settings, "inspect", "ann").exit_code == 0
    assert worker.metric("lurm_erasures_total") == 2 * settings.topics.partitions


def check_unknown(settings: Settings, user: str) -> None:
    """No tool knows the user any more."""
    inspected = lurm(settings, "inspect", user)
    assert "nothing is known of the user" in str(inspected.exception)
    for what in ("bags", "embeddings"):
        users = {json.loads(line)["user_id"] for line in lurm(settings, "export", what).stdout.splitlines()}
        assert users
        assert user not in users
    assert lurm(settings, "verify").exit_code == 0


def test_a_receipt_names_what_cannot_be_deleted_and_an_unknown_user_leaves_zeros(
    settings: Settings, make_worker: MakeWorker
) -> None:
    topic = settings.topics.events
    with producer(settings) as client:
        client.send(topic, b"{", b"ann")
        client.send(topic, b'{"user_id":"ann","item_id":"item-1","ts":1}', b"bob")
        client.send(topic, b"{", b"bob")
        # Nested deeper than can be read: it says nothing of anybody, and must not keep anybody from being erased.
        client.send(topic, b'{"user_id":"ann","x":%b}' % (b"[" * 1000 + b"]" * 1000), b"bob")
        client.flush()
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    receipt = erased(settings, "ann")
    assert receipt.removed.rows == 0
    assert {letter.reason for letter in receipt.left.dead_letters} == {"not_json", "key_mismatch"}
    assert all(letter.expires_at for letter in receipt.left.dead_letters)
    assert receipt.left.control.markers == settings.topics.partitions
    unknown = erased(settings, "nobody")
    assert (unknown.removed.rows, unknown.removed.marks, unknown.left.dead_letters) == (0, 0, [])
    assert (unknown.verified.ok, unknown.left.rows.records, unknown.left.embeddings.records) == (True, 0, 0)
    assert all_published(settings) == []
    assert "nothing was held of this user" in lurm(settings, "erase", "nobody").stderr
