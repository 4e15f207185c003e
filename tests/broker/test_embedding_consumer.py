"""The consumer of embeddings against a broker: groups, transactions, spaces, erasures."""

import time
from typing import Any

import numpy as np
import pytest

from stream.embedding import Embedding, EmbeddingConsumer, Erased, headers_of, shared_headers
from stream.errors import ConfigInvalid, SpaceMixed
from stream.kafka.topics import create_missing
from stream.settings import Settings
from tests.brokers import MakeSettings, producer

DEADLINE_S = 30


def _write(settings: Settings, changes: list[tuple[str, int | None]], space: str = "s", **client: Any) -> None:
    with producer(settings, client.get("transactional_id")) as kafka:
        if client:
            kafka.begin_transaction()
        for user, seq in changes:
            shared = shared_headers("m", space, (1, 2), "float32")
            (headers,) = headers_of(shared, 0, 1, np.array([seq or 0]), np.array([0]))
            value = None if seq is None else np.array([seq, 1], "<f4").tobytes()
            kafka.send(settings.topics.embeddings, value, user.encode(), headers, partition=0).get(10)
        if client:
            kafka.abort_transaction() if client["abort"] else kafka.commit_transaction()


def _poll(consumer: EmbeddingConsumer, n: int) -> list[tuple[str, int | None]]:
    """At least ``n`` changes, as (user, seq), seq None for erased ones."""
    changes: list[Embedding | Erased] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(changes) < n and time.monotonic() < deadline:
        changes.extend(consumer.poll(0.2))
    return [(each.user_id, each.seq if isinstance(each, Embedding) else None) for each in changes]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=2)
    create_missing(made)
    return made


def _open(settings: Settings, **options: Any) -> EmbeddingConsumer:
    return EmbeddingConsumer(settings.kafka.brokers, settings.topics.embeddings, **options)


def test_it_reads_from_the_beginning_or_from_now_on(settings: Settings) -> None:
    _write(settings, [("a", 1), ("b", 2)])
    with _open(settings) as later, _open(settings, from_beginning=True) as all_of_it:
        _write(settings, [("c", 3)])
        assert _poll(all_of_it, 3) == [("a", 1), ("b", 2), ("c", 3)]
        assert _poll(later, 1) == [("c", 3)]


def test_aborted_embeddings_are_never_seen(settings: Settings) -> None:
    _write(settings, [("a", 1)], transactional_id="t", abort=True)
    _write(settings, [("a", 2)], transactional_id="t", abort=False)
    with _open(settings, from_beginning=True) as consumer:
        assert _poll(consumer, 1) == [("a", 2)]


def test_stale_embeddings_are_dropped_and_erasures_reported(settings: Settings) -> None:
    _write(settings, [("a", 5), ("a", 4), ("b", 1), ("a", None), ("b", 2)])
    with _open(settings, from_beginning=True) as consumer:
        assert _poll(consumer, 4) == [("a", 5), ("b", 1), ("a", None), ("b", 2)]


def test_iterating_yields_embeddings_only(settings: Settings) -> None:
    _write(settings, [("a", 1), ("a", None), ("b", 2)])
    with _open(settings, from_beginning=True) as consumer:
        embeddings = iter(consumer)
        assert [next(embeddings).user_id for _ in range(2)] == ["a", "b"]


def test_a_second_space_is_refused_unless_one_is_chosen(settings: Settings) -> None:
    _write(settings, [("a", 1)], space="old")
    _write(settings, [("b", 2)], space="new")
    with _open(settings, from_beginning=True, space_id="new") as consumer:
        assert _poll(consumer, 1) == [("b", 2)]
    with _open(settings, from_beginning=True) as consumer, pytest.raises(SpaceMixed, match="first=old second=new"):
        _poll(consumer, 2)


def test_a_group_resumes_after_what_was_followed_by_another_poll(settings: Settings) -> None:
    group = {"group_id": settings.app.id, "from_beginning": True}
    _write(settings, [("a", 1)])
    with _open(settings, **group) as consumer:
        assert _poll(consumer, 1) == [("a", 1)]
        _write(settings, [("b", 2)])
        assert _poll(consumer, 1) == [("b", 2)]
    with _open(settings, **group) as consumer:
        assert _poll(consumer, 1) == [("b", 2)], "b was yielded, but nobody asked for more"


def test_a_missing_topic_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="does not exist: topic=nowhere"):
        EmbeddingConsumer(settings.kafka.brokers, "nowhere")
