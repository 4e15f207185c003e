"""The consumer of embeddings against a broker: groups, transactions, spaces, erasures, and handlers that fail."""

import random
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from stream.embedding import Change, Embedding, EmbeddingConsumer, Erased, headers_of, shared_headers
from stream.errors import ConfigInvalid, SpaceMixed
from stream.kafka.connection import admin
from stream.kafka.topics import create_missing, n_partitions
from stream.settings import Settings
from tests.brokers import MakeSettings, producer

DEADLINE_S = 30
MANY: list[tuple[str, int | None]] = [(f"u{i}", i) for i in range(300)]
EVERYBODY = {user for user, _ in MANY}


def _write(
    settings: Settings, changes: list[tuple[str, int | None]], space: str = "s", partition: int = 0, **client: Any
) -> None:
    with producer(settings, client.get("transactional_id")) as kafka:
        if client:
            kafka.begin_transaction()
        sent = []
        for i, (user, seq) in enumerate(changes):
            shared = shared_headers("m", space, (1, 2), "float32")
            (headers,) = headers_of(shared, 0, 1, np.array([seq or 0]), np.array([0]))
            value = None if seq is None else np.array([seq, 1], "<f4").tobytes()
            place = i % 2 if len(changes) > 10 else partition
            sent.append(kafka.send(settings.topics.embeddings, value, user.encode(), headers, partition=place))
        for each in sent:
            each.get(10)
        if client:
            kafka.abort_transaction() if client["abort"] else kafka.commit_transaction()


# The embedded broker gives topics no id.
ON_KAFKA = pytest.mark.parametrize("broker", ["kafka"], indirect=True)


def _make_anew(settings: Settings) -> None:
    with admin(settings) as client:
        client.delete_topics([settings.topics.embeddings])
    deadline = time.monotonic() + DEADLINE_S
    while n_partitions(settings, settings.topics.embeddings) and time.monotonic() < deadline:
        time.sleep(0.1)
    create_missing(settings)


def _write_foreign(settings: Settings) -> None:
    """What others may put there: an empty key, no headers, a format of tomorrow, headers that contradict the value."""
    good = dict(headers_of(shared_headers("m", "s", (1, 2), "float32"), 0, 1, np.array([1]), np.array([0]))[0])
    with producer(settings) as kafka:
        for key, value, headers in [
            (b"u", b"{}", {}),
            (b"", None, {}),
            (b"\xff", None, {}),
            (b"u", bytes(8), good | {"lurm-format": b"2"}),
            (b"u", bytes(7), good),
            (b"u", bytes(8), good | {"seq": b"1" * 30}),
        ]:
            kafka.send(settings.topics.embeddings, value, key, list(headers.items()), partition=0).get(10)


def _poll(consumer: EmbeddingConsumer, n: int) -> list[tuple[str, int | None]]:
    """At least ``n`` changes, as (user, seq), seq None for erased ones."""
    changes: list[Change] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(changes) < n and time.monotonic() < deadline:
        changes.extend(consumer.poll(0.2))
    return [_said(each) for each in changes]


def _said(change: Change) -> tuple[str, int | None]:
    return (change.user_id, change.seq if isinstance(change, Embedding) else None)


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=2)
    create_missing(made)
    return made


def _open(settings: Settings, **options: Any) -> EmbeddingConsumer:
    return EmbeddingConsumer(settings.kafka.brokers, settings.topics.embeddings, **options)


def _group(settings: Settings, **options: Any) -> EmbeddingConsumer:
    return _open(settings, group_id=settings.app.id, **options)


def test_it_reads_from_the_beginning_or_from_now_on(settings: Settings) -> None:
    _write(settings, [("a", 1), ("b", 2)])
    with _open(settings, from_beginning=False) as later, _open(settings) as all_of_it:
        _write(settings, [("c", 3)])
        assert _poll(all_of_it, 3) == [("a", 1), ("b", 2), ("c", 3)]
        assert _poll(later, 1) == [("c", 3)]


def test_aborted_embeddings_are_never_seen(settings: Settings) -> None:
    _write(settings, [("a", 1)], transactional_id="t", abort=True)
    _write(settings, [("a", 2)], transactional_id="t", abort=False)
    with _open(settings) as consumer:
        assert _poll(consumer, 1) == [("a", 2)]


def test_stale_embeddings_are_dropped_and_erasures_reported(settings: Settings) -> None:
    _write(settings, [("a", 5), ("a", 4), ("b", 1), ("a", None), ("b", 2)])
    with _open(settings) as consumer:
        assert _poll(consumer, 4) == [("a", 5), ("b", 1), ("a", None), ("b", 2)]


def test_a_loop_is_given_erasures_too(settings: Settings) -> None:
    _write(settings, [("a", 1), ("a", None), ("b", 2)])
    with _open(settings) as consumer:
        assert [_said(each) for each in islice(consumer, 3)] == [("a", 1), ("a", None), ("b", 2)]


def test_a_second_space_is_refused_unless_one_is_chosen(settings: Settings) -> None:
    _write(settings, [("a", 1)], space="old")
    _write(settings, [("b", 2)], space="new")
    with _open(settings, space_id="new") as consumer:
        assert _poll(consumer, 1) == [("b", 2)]
    with _open(settings) as consumer:
        assert _poll(consumer, 1) == [("a", 1)], "what came before is not lost"
        for _ in range(2):
            with pytest.raises(SpaceMixed, match="first=old second=new"):
                _poll(consumer, 1)


def test_a_group_that_met_a_second_space_is_told_so_at_each_start(settings: Settings) -> None:
    _write(settings, [("a", 1)], space="old")
    _write(settings, [("b", 2)], space="new")
    with _group(settings) as consumer:
        assert _poll(consumer, 1) == [("a", 1)]
        with pytest.raises(SpaceMixed):
            _poll(consumer, 1)
    for _ in range(2):  # what it handled of the first space is committed by now
        with pytest.raises(SpaceMixed, match="first=old second=new"), _group(settings) as consumer:
            _poll(consumer, 1)
    with _group(settings, space_id="new") as consumer:
        assert _poll(consumer, 1) == [("b", 2)]
    _write(settings, [("c", 3)], space="new")
    with _group(settings) as consumer:
        assert _poll(consumer, 1) == [("c", 3)], "the group follows the space that was named"


def test_batches_give_what_came_before_a_second_space(settings: Settings) -> None:
    _write(settings, [("a", 1), ("b", 2)], space="old")
    _write(settings, [("c", 3)], space="new")
    given = []
    with pytest.raises(SpaceMixed), _group(settings) as consumer:  # noqa: PT012 - the second batch ends it
        for batch in consumer.batches(10):
            given += [_said(each) for each in batch]
    assert given == [("a", 1), ("b", 2)]


def test_a_batch_of_no_changes_is_refused(settings: Settings) -> None:
    with _open(settings) as consumer, pytest.raises(ValueError, match="n_max=0"):
        next(consumer.batches(0))


def test_a_consumer_may_be_closed_within_its_block(settings: Settings) -> None:
    _write(settings, [("a", 1), ("b", 2)])
    with _group(settings) as consumer:
        for change in consumer:
            if change.user_id == "b":
                consumer.close()
                break
    with _group(settings) as consumer:
        assert _poll(consumer, 1) == [("b", 2)], "a was handled, b was not"


@ON_KAFKA
@pytest.mark.parametrize("n_new", [2, 20])
@pytest.mark.parametrize("is_group", [True, False])
@pytest.mark.parametrize("from_beginning", [True, False])
def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    settings: Settings, *, from_beginning: bool, is_group: bool, n_new: int
) -> None:
    group = {"group_id": settings.app.id} if is_group else {}
    with _open(settings, from_beginning=from_beginning, **group) as consumer:
        consumer.poll(0 if from_beginning else 5)
        _write(settings, [(f"u{i}", i) for i in range(5)])
        assert len(_poll(consumer, 5)) == 5
        _make_anew(settings)
        new: list[tuple[str, int | None]] = [(f"u{i}", 100 + i) for i in range(n_new)]
        _write(settings, new)
        assert sorted(_poll(consumer, n_new)) == sorted(new)
    if is_group:
        with _group(settings) as consumer:
            assert consumer.poll(2) == []


@ON_KAFKA
def test_a_commit_in_a_topic_of_before_is_none_in_a_topic_of_its_name(settings: Settings) -> None:
    with _group(settings) as consumer:
        _write(settings, [(f"u{i}", i) for i in range(5)])
        assert len(_poll(consumer, 5)) == 5
        _make_anew(settings)
        new: list[tuple[str, int | None]] = [(f"u{i}", 100 + i) for i in range(8)]
        _write(settings, new)
        consumer.close()  # and commits what it handled of the former one
    with _group(settings) as consumer:
        assert _poll(consumer, 8) == new


def test_a_reader_without_a_group_reads_partitions_that_are_added(settings: Settings) -> None:
    with _open(settings, from_beginning=False) as consumer:
        with admin(settings) as client:
            client.create_partitions({settings.topics.embeddings: 3})
        _write(settings, [("a", 1)], partition=2)
        assert _poll(consumer, 1) == [("a", 1)]


def test_a_group_resumes_after_what_was_followed_by_another_poll(settings: Settings) -> None:
    _write(settings, [("a", 1)])
    consumer = _group(settings)
    assert _poll(consumer, 1) == [("a", 1)]
    _write(settings, [("b", 2)])
    assert _poll(consumer, 1) == [("b", 2)]
    consumer.close()
    with _group(settings) as consumer:
        assert _poll(consumer, 1) == [("b", 2)], "b was given, but nobody asked for more"
        _write(settings, [("c", 3)])
    with _group(settings) as consumer:
        assert _poll(consumer, 1) == [("c", 3)], "b's block was left without an error"


def test_a_handler_that_fails_and_is_tried_again_in_the_same_block_misses_nobody(settings: Settings) -> None:
    _write(settings, MANY)
    kept = Kept(seed=1)
    with _group(settings) as consumer:
        while kept.users != EVERYBODY:
            kept.try_all(consumer)
    assert kept.n_failed > 20


def test_a_handler_that_fails_and_is_started_again_misses_nobody(settings: Settings) -> None:
    _write(settings, MANY[:60])
    kept = Kept(seed=2, share=0.1)
    deadline = time.monotonic() + 10 * DEADLINE_S
    while len(kept.users) < 60:
        assert time.monotonic() < deadline
        with pytest.raises(Refused), _group(settings) as consumer:  # noqa: PT012 - both end it
            for change in consumer:
                kept.keep(change)
                if len(kept.users) == 60:
                    raise Refused


def test_a_few_at_a_time_misses_nobody(settings: Settings) -> None:
    _write(settings, MANY)
    users: list[str] = []
    with _group(settings) as consumer:
        changes = iter(consumer)
        for _ in range(10):
            users += [each.user_id for each in islice(changes, 10)]
        for _ in range(10):  # a loop each, which begins with the last change of the one before
            users += [each.user_id for each in islice(consumer, 11)]
    assert len(set(users)) == 200
    for _ in range(10):
        with _group(settings) as consumer:
            users += [each.user_id for each in islice(consumer, 10)]
    assert set(users) == EVERYBODY
    assert len(users) == 310


def test_a_batch_is_handled_when_the_next_one_is_asked_for(settings: Settings) -> None:
    _write(settings, MANY)
    kept = Kept(seed=3, share=0.02)
    with _group(settings) as consumer:
        while kept.users != EVERYBODY:
            kept.try_batches(consumer)
    assert kept.n_failed > 1
    with _group(settings) as consumer:
        assert consumer.poll(2) == []


def test_what_is_no_embedding_is_skipped_counted_and_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    _write(settings, [("a", 1)])
    _write_foreign(settings)
    _write(settings, [("b", 2)])
    for expected in [[("a", 1), ("b", 2)], [("c", 3)]]:
        with _group(settings) as consumer:
            assert _poll(consumer, len(expected)) == expected
            assert consumer.n_foreign == (6 if len(expected) == 2 else 0)
        _write(settings, [("c", 3)])
    assert f"topic={settings.topics.embeddings} partition=0 offset=1 skipped=1" in caplog.text


def test_a_new_group_that_is_restarted_before_its_first_change_misses_nobody(settings: Settings) -> None:
    _write(settings, [("a", 1)])
    for from_beginning in (True, False):
        group = {"group_id": f"{settings.app.id}-{from_beginning}", "from_beginning": from_beginning}
        with _open(settings, **group) as consumer:
            if not from_beginning:
                assert consumer.poll(5) == []
    _write(settings, [("b", 2)])
    for from_beginning, expected in [(True, [("a", 1), ("b", 2)]), (False, [("b", 2)])]:
        group = {"group_id": f"{settings.app.id}-{from_beginning}", "from_beginning": from_beginning}
        with _open(settings, **group) as consumer:
            assert _poll(consumer, len(expected)) == expected


def test_a_slow_handler_lets_others_join_and_nobody_is_missed(settings: Settings) -> None:
    _write(settings, MANY[:200])
    users: list[list[str]] = [[], []]
    stop = threading.Event()

    def follow(mine: list[str], pause_s: float) -> None:
        with _group(settings) as consumer:
            for change in until(consumer, stop):
                time.sleep(pause_s)
                mine.append(change.user_id)

    threads = [
        threading.Thread(target=follow, args=(users[0], 0.1)),
        threading.Thread(target=follow, args=(users[1], 0)),
    ]
    threads[0].start()
    while not users[0]:
        time.sleep(0.1)
    threads[1].start()
    deadline = time.monotonic() + 2 * DEADLINE_S
    while len({*users[0], *users[1]}) < 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    _write(settings, [("end", 10**6)])
    with producer(settings) as kafka:
        kafka.send(settings.topics.embeddings, None, b"end", partition=1).get(10)
    for thread in threads:
        thread.join()
    assert len({*users[0], *users[1]} - {"end"}) == 200
    assert users[1], "the second got a partition while the first one was at work"
    assert len(users[0]) + len(users[1]) < 300, "what was handled did not come again"


def test_a_missing_topic_is_named(settings: Settings) -> None:
    for group_id in (None, settings.app.id):
        with pytest.raises(ConfigInvalid, match="does not exist: topic=nowhere"):
            EmbeddingConsumer(settings.kafka.brokers, "nowhere", group_id=group_id)


def until(consumer: EmbeddingConsumer, stop: threading.Event) -> Iterator[Change]:
    for change in consumer:
        yield change
        if stop.is_set():
            return


class Refused(Exception):
    """A database that does not take this now."""


class Kept:
    """A database that refuses a share of what it is given, at random."""

    def __init__(self, seed: int, share: float = 0.2) -> None:
        self.users: set[str] = set()
        self.n_failed = 0
        self._random = random.Random(seed)
        self._share = share

    def keep(self, change: Erased | Embedding) -> None:
        if self._random.random() < self._share:
            self.n_failed += 1
            raise Refused
        self.users.add(change.user_id)

    def try_all(self, consumer: EmbeddingConsumer) -> None:
        """Until it refuses, or has all."""
        try:
            for change in consumer:
                self.keep(change)
                if self.users == EVERYBODY:
                    return
        except Refused:
            return

    def try_batches(self, consumer: EmbeddingConsumer) -> None:
        """As `try_all`; of a batch that it refuses it may have kept a part."""
        try:
            for batch in consumer.batches(16):
                assert 1 <= len(batch) <= 16
                for change in batch:
                    self.keep(change)
                if self.users == EVERYBODY:
                    return
        except Refused:
            return
