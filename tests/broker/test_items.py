"""`lurm items assign` in all its ways, and a worker's reader of the items topic, on real brokers."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from stream.cli import run
from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.kafka.connection import admin
from stream.kafka.topics import create_missing
from stream.metrics import WorkerMetrics
from stream.outcomes import ItemOutcome
from stream.records.new_items import LearnedItems, NewItem, encode
from stream.settings import Settings
from stream.worker.items_reader import ItemsReader
from tests.brokers import MakeSettings, environment_of, producer, read_records
from tests.workers import bundle_with_kinds, recreate, wait_until

BUNDLE = bundle_with_kinds()
SPACE = BUNDLE.codebook.interest_space_id
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=2)
    create_missing(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BUNDLE.save(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def new_items(tmp_path: Path) -> Path:
    path = tmp_path / "new.jsonl"
    rows = [
        {"item_id": "item-3", "attributes": {"kind": "9"}},
        {"item_id": "lamp", "attributes": {"kind": "7"}},
        {"item_id": "bare"},
        {"item_id": "odd", "attributes": {"kind": "moon"}},
        {"item_id": "rug", "attributes": {"kind": ["2", "2"]}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def lurm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("LURM_MODEL__BUNDLE", str(folder))

    def call(*arguments: object, settings: Settings | None = None) -> tuple[int, str, str]:
        for name, value in (environment_of(settings) if settings else {}).items():
            monkeypatch.setenv(name, value)
        code = run(["items", "assign", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


AFTER = ("first", "second", "third", "fourth", "fifth")
REPORT = "assigned=2 in_bundle=1 unknown=2\n"


def test_new_items_are_printed_and_the_others_reported(lurm: Run, new_items: Path) -> None:
    code, out, err = lurm(new_items)
    assert code == 0
    assert list(map(json.loads, out.splitlines())) == [
        {"item_id": "lamp", "interest": 7},
        {"item_id": "rug", "interest": 2},
    ]
    assert err.startswith(REPORT)
    assert "the bundle's own items keep their interest" in err
    assert "no attribute of these items is known to the bundle: bare, odd" in err


def test_a_bundle_with_the_new_items_is_another_model_of_the_same_spaces(
    lurm: Run, new_items: Path, tmp_path: Path
) -> None:
    code, out, err = lurm(new_items, "--out", tmp_path / "other")
    other = Bundle.load(tmp_path / "other")
    assert (code, err.startswith(REPORT)) == (0, True)
    assert f"bundle={tmp_path / 'other'} model_id={other.model_id} items=42" in out
    assert other.model_id != BUNDLE.model_id
    assert (other.space_id, other.codebook.interest_space_id) == (BUNDLE.space_id, SPACE)
    assert other.codebook.interest_of == {**BUNDLE.codebook.interest_of, "lamp": 7, "rug": 2}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    code, _, err = lurm(new_items, "--out", tmp_path / "mine")
    assert (code, "neither empty nor a bundle" in err) == (2, True)


def test_a_catalogue_of_other_columns_gives_the_same_items(lurm: Run, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("sku,shelf\nlamp,7\nitem-3,9\nrug,2\n")
    code, out, err = lurm(path, "--column", "item_id=sku", "--attribute", "kind=shelf")
    assert code == 0, err
    assert {row["item_id"]: row["interest"] for row in map(json.loads, out.splitlines())} == {"lamp": 7, "rug": 2}
    code, _, err = lurm(path, "--column", "ts=when")
    assert (code, "'ts' is no TARGET, use item_id, attributes" in err) == (2, True)


def test_misuse_is_said_before_anything_is_done(
    lurm: Run, tmp_path: Path, new_items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lurm(tmp_path / "none.csv")[0] == 2
    monkeypatch.delenv("LURM_MODEL__BUNDLE")
    code, _, err = lurm(new_items)
    assert (code, "no model: set LURM_MODEL__BUNDLE" in err) == (2, True)


def test_sent_items_stand_in_the_topic_as_documented(lurm: Run, new_items: Path, settings: Settings) -> None:
    code, out, err = lurm(new_items, "--send", settings=settings)
    assert (code, out, err.startswith(REPORT)) == (0, f"sent 2 items to {settings.topics.items}\n", True)
    records = read_records(settings, settings.topics.items, [0])
    assert {record.key: json.loads(record.value) for record in records} == {
        b"lamp": {"attributes": {"kind": ["7"]}, "interest": 7, "interest_space_id": SPACE},
        b"rug": {"attributes": {"kind": ["2", "2"]}, "interest": 2, "interest_space_id": SPACE},
    }
    code, _, err = lurm(new_items, "--topic", "nowhere", settings=settings)
    assert (code, "the items topic does not exist: topic=nowhere" in err) == (2, True)


async def read(settings: Settings, until: int) -> ItemsReader:
    """A reader that has read so many records; it is caught up before it has them only if the topic had fewer."""
    reader = ItemsReader(settings, LearnedItems(BUNDLE.codebook), WorkerMetrics())
    task = asyncio.create_task(reader.run())
    waiting = asyncio.create_task(reader.caught_up())
    done, _ = await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        waiting.cancel()
        task.result()
    assert reader.n_read >= until
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return reader


def test_a_reader_knows_the_whole_topic_before_it_says_so_whatever_stands_at_its_end(settings: Settings) -> None:
    topic, n = settings.topics.items, 5_000
    with producer(settings) as client:
        for i in range(n):
            client.send(topic, encode(NewItem({"kind": str(i % 20)}, None, None)), f"new-{i}".encode())
        client.send(topic, b"poison", b"new-0")
        client.send(topic, None, b"new-1")
        client.flush()
    reader = asyncio.run(read(settings, n + 2))
    assert reader.learned.interest_of == {f"new-{i}": i % 20 for i in range(2, n)}
    sample = reader.metrics.registry.get_sample_value
    assert sample("lurm_learned_items") == n - 2
    counted = {each: sample("lurm_item_records_total", {"outcome": each.value}) for each in ItemOutcome}
    assert {each: count for each, count in counted.items() if count} == {
        ItemOutcome.LEARNED: n,
        ItemOutcome.NOT_JSON: 1,
        ItemOutcome.FORGOTTEN: 1,
    }


def test_only_committed_items_count_and_an_aborted_end_is_no_reason_to_wait(make_kafka_settings: MakeSettings) -> None:
    settings = make_kafka_settings()
    create_missing(settings)
    with producer(settings, f"{settings.app.id}-items") as client:
        for name, commits in ((b"kept", True), (b"dropped", False)):
            client.begin_transaction()
            client.send(settings.topics.items, encode(NewItem(None, 5, SPACE)), name)
            client.commit_transaction() if commits else client.abort_transaction()
    reader = asyncio.run(read(settings, 1))
    assert reader.learned.interest_of == {"kept": 5}


def test_who_reads_a_topic_that_is_recreated_knows_what_a_new_reader_knows(make_kafka_settings: MakeSettings) -> None:
    """Also where the new topic has grown past what was read of the old one."""
    settings = make_kafka_settings()
    create_missing(settings)

    def send(*names: str) -> None:
        with producer(settings) as client:
            for name in names:
                client.send(settings.topics.items, encode(NewItem(None, 5, SPACE)), name.encode())

    async def scenario() -> dict[str, int]:
        reader = ItemsReader(settings, LearnedItems(BUNDLE.codebook), WorkerMetrics())
        task = asyncio.create_task(reader.run())
        await reader.caught_up()
        assert set(reader.learned.interest_of) == {"before", "kept"}
        await asyncio.to_thread(recreate, settings, settings.topics.items)
        await asyncio.to_thread(send, "kept", *AFTER)
        learned = reader.learned.interest_of
        await asyncio.to_thread(wait_until, lambda: (AFTER[-1] in learned and "before" not in learned) or task.done())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return learned

    send("before", "kept")
    assert asyncio.run(scenario()) == dict.fromkeys(("kept", *AFTER), 5)
    assert asyncio.run(read(settings, 6)).learned.interest_of == dict.fromkeys(("kept", *AFTER), 5)


def test_partitions_that_are_added_to_the_topic_are_read_by_running_and_by_new_readers_alike(
    make_kafka_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_kafka_settings()
    create_missing(settings)
    topic = settings.topics.items

    def send(interest: int, partition: int, *names: str) -> None:
        with producer(settings) as client:
            for name in names:
                client.send(topic, encode(NewItem(None, interest, SPACE)), name.encode(), partition=partition)

    def add() -> None:
        with admin(settings) as client:
            client.create_partitions({topic: 2})
        send(7, 1, "moved", "added")
        send(7, 0, "stays")

    async def scenario() -> ItemsReader:
        reader = ItemsReader(settings, LearnedItems(BUNDLE.codebook), WorkerMetrics())
        task = asyncio.create_task(reader.run())
        await reader.caught_up()
        await asyncio.to_thread(add)
        await asyncio.to_thread(wait_until, lambda: "added" in reader.learned.interest_of or task.done())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return reader

    send(5, 0, "moved", "stays", "old")
    running = asyncio.run(scenario())
    new = asyncio.run(read(settings, 6))
    expected = {"moved": 7, "stays": 7, "old": 5, "added": 7}
    assert running.learned.interest_of == new.learned.interest_of == expected
    assert f"the items topic has changed and is read again: topic={topic} partitions=2 before=1" in caplog.text


def test_a_topic_that_cannot_be_read_ends_the_reader_with_one_line(settings: Settings) -> None:
    gone = settings.model_copy(update={"topics": settings.topics.model_copy(update={"items": "nowhere"})})
    with pytest.raises(ConfigInvalid, match=r"items topic does not exist: topic=nowhere; `lurm topics create`"):
        asyncio.run(read(gone, 0))
    kafka = settings.kafka.model_copy(update={"brokers": "127.0.0.1:1", "start_deadline_s": 0.3})
    with pytest.raises(BrokerUnavailable, match=r"no broker answered within 0.3 s"):
        asyncio.run(read(settings.model_copy(update={"kafka": kafka}), 0))


def test_the_bundle_of_these_tests_sends_a_kind_to_its_interest() -> None:
    found = BUNDLE.codebook.assign_many([{"kind": [str(i)]} for i in range(20)])
    np.testing.assert_array_equal(found, np.arange(20))
