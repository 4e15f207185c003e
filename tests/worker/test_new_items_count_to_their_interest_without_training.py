import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from state.periods import MS_PER_DAY
from stream.kafka.connection import admin
from stream.records.new_items import NewItem, encode
from stream.settings import Settings
from tests.brokers import environment_of, producer
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    FIRST_DAY,
    LURM,
    N_INTERESTS,
    WorkerProcess,
    bundle_with_kinds,
    check_exact,
    check_published,
    wait_applied,
    wait_until,
)

SPACE = bundle_with_kinds().codebook.interest_space_id


def with_kinds(settings: Settings, folder: Path) -> Settings:
    bundle_with_kinds().save(folder)
    return settings.model_copy(update={"model": settings.model.model_copy(update={"bundle": folder})})


def send(settings: Settings, item: str, interest: int, n: int = 20, **more: object) -> list[PlainEvent]:
    """Events of one item by some users, and what they are to count."""
    events = [PlainEvent(f"user-{i % 5}".encode(), interest, (FIRST_DAY + i) * MS_PER_DAY) for i in range(n)]
    with producer(settings) as client:
        for event in events:
            value = {"user_id": event.user.decode(), "item_id": item, "ts": event.ts_ms} | more
            client.send(settings.topics.events, json.dumps(value).encode(), event.user)
        client.flush()
    return events


def assign(settings: Settings, folder: Path, rows: Sequence[dict[str, object]]) -> None:
    file = folder / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command: list[str | Path] = [LURM, "items", "assign", file, "--send"]
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def learned(worker: WorkerProcess, n: int) -> None:
    wait_until(lambda: worker.metric("lurm_learned_items") == n, explain=worker.output)


@pytest.mark.slow
def test_a_running_worker_learns_an_item_and_knows_it_after_a_restart(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = with_kinds(settings, tmp_path / "kinds")
    worker = make_worker(settings).ready()
    sent = send(settings, "lamp", N_INTERESTS)
    wait_applied(settings, worker)
    assert worker.metric("lurm_unknown_items_total") == 20
    assert worker.metric("lurm_learned_items") == 0

    assign(settings, tmp_path, [{"item_id": "lamp", "attributes": {"kind": "7"}}, {"item_id": "item-1"}])
    learned(worker, 1)
    sent += send(settings, "lamp", 7)
    sent += send(settings, "lamp", 7, attributes={"kind": "3"})
    sent += send(settings, "item-1", 1)
    sent += send(settings, "rug", 3, attributes={"kind": "3"})
    wait_applied(settings, worker)
    assert worker.metric("lurm_unknown_items_total") == 20
    assert worker.metric("lurm_item_records_total", outcome="learned") == 1
    check_exact(settings, sent)

    assert worker.terminate() == 0
    # The disk too: what the changelog gives back was counted once and is never looked up again.
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    sent += send(settings, "lamp", 7)
    worker.ready()
    wait_applied(settings, worker)
    assert worker.metric("lurm_unknown_items_total") == 0
    check_exact(settings, sent)

    with producer(settings) as client:
        client.send(settings.topics.items, b"no json", b"rug")
        client.send(settings.topics.items, None, b"lamp")
    learned(worker, 0)
    sent += send(settings, "lamp", N_INTERESTS)
    wait_applied(settings, worker)
    assert worker.metric("lurm_unknown_items_total") == 20
    assert worker.metric("lurm_item_records_total", outcome="not_json") == 1
    check_exact(settings, sent)
    check_published(settings)


def test_a_worker_knows_the_whole_topic_before_it_counts_its_first_event(
    broker: object, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = with_kinds(settings_on(broker.brokers), tmp_path / "kinds")  # type: ignore[attr-defined]
    n = 20_000
    with producer(settings) as client:
        for i in range(n):
            client.send(settings.topics.items, encode(NewItem(None, i % N_INTERESTS, SPACE)), f"new-{i}".encode())
    sent = send(settings, f"new-{n - 1}", (n - 1) % N_INTERESTS) + send(settings, "new-0", 0)
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    check_exact(settings, sent)
    assert worker.metric("lurm_unknown_items_total") == 0
    assert worker.metric("lurm_learned_items") == n


@pytest.mark.slow
def test_an_items_topic_may_have_many_partitions(settings: Settings, make_worker: MakeWorker, tmp_path: Path) -> None:
    settings = with_kinds(settings, tmp_path / "kinds")
    with admin(settings) as client:
        client.create_partitions({settings.topics.items: 3})
    n = 12
    with producer(settings) as client:
        for i in range(n):
            value = encode(NewItem(None, i, SPACE))
            client.send(settings.topics.items, value, f"new-{i}".encode(), partition=i % 3)
    worker = make_worker(settings).ready()
    learned(worker, n)
    sent = [event for i in range(n) for event in send(settings, f"new-{i}", i)]
    # What a running worker is told counts too, also where an item moved to another partition.
    with producer(settings) as client:
        client.send(settings.topics.items, encode(NewItem(None, 7, SPACE)), b"new-0", partition=2)
        client.send(settings.topics.items, encode(NewItem(None, 7, SPACE)), b"newest", partition=1)
    learned(worker, n + 1)
    sent += send(settings, "new-0", 7) + send(settings, "newest", 7)
    wait_applied(settings, worker)
    check_exact(settings, sent)
