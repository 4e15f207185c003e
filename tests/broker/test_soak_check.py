"""The soak's check finds whatever is wrong, and nothing where all is right."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lurm_model.bundle import Bundle
from state.periods import MS_PER_DAY
from stream.kafka.topics import create_missing
from stream.operations.replay import newest_embeddings, newest_state
from stream.settings import Model, Settings
from stream.soak.check import differences, unseen
from stream.soak.reference import Reference
from stream.soak.traffic import Sent
from stream.testing.bundle import FIRST_DAY, tiny_bundle
from tests.broker.state_writer import StateWriter
from tests.brokers import Broker, fresh_settings, producer
from tests.conftest import KINDS
from tests.plain import PlainEvent

EVENTS = [PlainEvent(b"user-%d" % (i % 7), i % 5, (FIRST_DAY + 3 * i) * MS_PER_DAY) for i in range(40)]
Spoil = Callable[[Settings, StateWriter], None]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def writer(session_brokers: dict[str, Broker], bundle: Bundle, tmp_path: Path) -> StateWriter:
    """All is right: the state of the events, and their embeddings."""
    bundle.save(tmp_path / "bundle")
    brokers = session_brokers[KINDS[-1]].start().brokers
    settings = fresh_settings(brokers, model=Model(bundle=tmp_path / "bundle", device="cpu"))
    create_missing(settings)
    writer = StateWriter(settings, bundle)
    writer.write_rows(EVENTS, rolled_up=True)
    writer.write_embeddings(EVENTS)
    return writer


def found(writer: StateWriter, n_poison: int = 0) -> list[str]:
    sent = Sent(len(EVENTS), n_poison, 0, Reference(EVENTS))
    return list(differences(writer.settings, sent))


def test_nothing_is_found_where_all_is_right(writer: StateWriter) -> None:
    assert found(writer) == []
    published = newest_embeddings(writer.settings)
    seen = {user: embedding.seq for user, embedding in published.items()}
    assert unseen(published, seen) == []
    assert unseen(published, seen | {"user-1": 0}) == ["user-1"]
    assert unseen(published, {}) == sorted(published)


def lose_a_row(settings: Settings, writer: StateWriter) -> None:
    partition, rows = next(iter(newest_state(settings).rows.items()))
    with producer(settings) as client:
        client.send(settings.changelog_topic, None, min(rows), partition=partition)


def write_an_older_row(settings: Settings, writer: StateWriter) -> None:
    partition, rows = next(iter(newest_state(settings).rows.items()))
    key, value = max(rows.items(), key=lambda row: row[1][:8][::-1])
    with producer(settings) as client:
        client.send(settings.changelog_topic, bytes(8) + value[8:], key, partition=partition)


def count_an_event_twice(settings: Settings, writer: StateWriter) -> None:
    writer.write_rows([*EVENTS, EVENTS[0]], rolled_up=True)
    writer.write_embeddings([*EVENTS, EVENTS[0]])


def invent_a_dead_letter(settings: Settings, writer: StateWriter) -> None:
    with producer(settings) as client:
        client.send(settings.topics.dead_letters, b"poison", b"user-1")


def publish_another_embedding(settings: Settings, writer: StateWriter) -> None:
    writer.write_embeddings(EVENTS, scale=1.0001)


def publish_an_older_embedding(settings: Settings, writer: StateWriter) -> None:
    writer.write_embeddings(EVENTS[:10])


SPOILS: list[tuple[Spoil, str]] = [
    (lose_a_row, "a bag is wrong: user=b'user-"),
    (write_an_older_row, "the changelog went back: partition="),
    (count_an_event_twice, "the ledger is not what was sent: found=Ledger(received=41"),
    (invent_a_dead_letter, "the dead letters are not the poison sent: found=1 sent=0"),
    (publish_another_embedding, "embeddings are not those of the bags: {'different': 7}"),
    (publish_an_older_embedding, "an older embedding followed: user=user-"),
]


@pytest.mark.parametrize(("spoil", "sentence"), SPOILS, ids=[spoil.__name__ for spoil, _ in SPOILS])
def test_whatever_is_wrong_is_found(spoil: Spoil, sentence: str, writer: StateWriter) -> None:
    spoil(writer.settings, writer)
    sentences = found(writer)
    assert any(each.startswith(sentence) for each in sentences), sentences
