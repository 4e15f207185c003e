"""A history sent with Kafka's default partitioner, live events with librdkafka's: found, said, and put right."""

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from state.rows import RECORD_KEY
from stream.records.partitioners import partitions_of
from stream.settings import Settings, State, Topics, Worker
from tests.brokers import Broker, environment_of, producer, read_records
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    LURM,
    Changelog,
    Traffic,
    check_exact,
    check_published,
    newest_published,
    value_of,
    wait_applied,
    wait_until,
)


def send_as_librdkafka_does(settings: Settings, events: Sequence[PlainEvent]) -> None:
    """By its default partitioner, ``consistent_random``."""
    homes = partitions_of([event.user for event in events], settings.topics.partitions, "crc32").tolist()
    with producer(settings) as client:
        for event, home in zip(events, homes, strict=True):
            client.send(settings.topics.events, value_of(event), event.user, partition=home)
        client.flush()


def lurm(settings: Settings, *arguments: object, exit_code: int = 0) -> str:
    """What the command said."""
    command = [str(each) for each in (LURM, *arguments)]
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def events_of(settings: Settings, seed: int, n: int) -> list[PlainEvent]:
    traffic = Traffic(settings, seed=seed)
    return [traffic._event() for _ in range(n)]


@pytest.mark.kafka
@pytest.mark.slow
def test_half_a_life_in_another_partition_is_seen_and_merged(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    old = settings_on(kafka_broker.brokers, worker=Worker(), partitions=4)
    history, live = events_of(old, 81, 1000), events_of(old, 82, 300)
    file = tmp_path / "history.jsonl"
    file.write_bytes(b"\n".join(map(value_of, history)))
    lurm(old, "produce", file)
    worker = make_worker(old).ready()
    wait_applied(old, worker)
    assert worker.metric("lurm_placed_users_total", place="right") > 0
    assert worker.metric("lurm_placed_users_total", place="wrong") == 0
    send_as_librdkafka_does(old, live)
    wait_applied(old, worker)
    wait_until(lambda: worker.metric("lurm_placed_users_total", place="wrong") > 10, explain=worker.output)
    assert "placed_by=crc32" in worker.output()
    assert "partitioner=murmur2_random" in worker.output()

    user, apart = someone_in_two_partitions(old)
    wait_until(lambda: len(newest_published(old)) == len({event.user for event in history + live}))
    assert "found in several partitions: " + ", ".join(map(str, apart)) in lurm(old, "inspect", user)
    found = json.loads(lurm(old, "inspect", user, "--json"))
    assert found["partitions"] == apart
    own = [event for event in history + live if event.user == user.encode()]
    months = [bag for bag in found["periods"] if bag["scale"] == "month"]
    assert sum(sum(bag["interests"].values()) for bag in months) == len(own)
    assert "users are found in several partitions" in lurm(old, "verify", exit_code=1)
    assert worker.terminate() == 0

    app = f"{old.app.id}-whole"
    said = lurm(old, "repartition", "--to-app", app, "--to-events", f"{app}-events", "--partitions", 4)
    assert "merged into the rest of their users' lives: parts=" in said
    new = with_printed(old, said).model_copy(update={"state": State(dir=tmp_path / "state-new")})
    check_exact(new, history + live)
    worker = make_worker(new).ready()
    check_published(new)
    each_once = {event.user: 1 for event in history + live}
    assert published(new) == each_once
    assert len(json.loads(lurm(new, "inspect", user, "--json"))["partitions"]) == 1
    lurm(new, "verify")
    more = events_of(new, 83, 200)
    file.write_bytes(b"\n".join(map(value_of, more)))
    lurm(new, "produce", file)
    wait_applied(new, worker)
    check_exact(new, history + live + more)
    assert worker.metric("lurm_placed_users_total", place="wrong") == 0


@pytest.mark.kafka
@pytest.mark.slow
def test_a_topic_whose_producers_all_use_crc32_is_well_once_the_settings_say_so(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    wrong = settings_on(kafka_broker.brokers, worker=Worker(), partitions=4)
    right = wrong.model_copy(update={"topics": Topics(**wrong.topics.model_dump() | {"partitioner": "crc32"})})
    first, then = events_of(wrong, 84, 300), events_of(wrong, 85, 300)
    send_as_librdkafka_does(wrong, first)
    file = tmp_path / "then.jsonl"
    file.write_bytes(b"\n".join(map(value_of, then)))
    lurm(right, "produce", file)
    worker = make_worker(right).ready()
    wait_applied(right, worker)
    assert worker.metric("lurm_placed_users_total", place="right") > 0
    assert worker.metric("lurm_placed_users_total", place="wrong") == 0
    check_exact(right, first + then)
    check_published(right)
    assert worker.terminate() == 0
    app = f"{wrong.app.id}-8"
    move = ("repartition", "--to-app", app, "--to-events", f"{app}-events", "--partitions", 8)
    said = lurm(wrong, *move, exit_code=1)
    assert "placed_by=crc32; say with --partitioner" in said
    new = with_printed(right, lurm(right, *move))
    assert new.topics.partitioner == "crc32"
    rows = [each for each in Changelog(new).records if each.key != RECORD_KEY]
    homes = partitions_of([row.key[:-6] for row in rows], 8, "crc32").tolist()
    assert [row.partition for row in rows] == homes
    check_exact(new, first + then)
    unknown = wrong.model_copy(update={"topics": Topics(**wrong.topics.model_dump() | {"partitioner": "any"})})
    assert "topics.partitioner=any" in lurm(unknown, "produce", file, exit_code=2)
    assert "topics.partitioner=any" in lurm(unknown, *move, exit_code=2)


def someone_in_two_partitions(settings: Settings) -> tuple[str, list[int]]:
    where: dict[bytes, set[int]] = {}
    for record in Changelog(settings).records:
        if record.key != RECORD_KEY:
            where.setdefault(record.key[:-6], set()).add(record.partition)
    return next((user.decode(), sorted(found)) for user, found in where.items() if len(found) > 1)


def published(settings: Settings) -> Counter[bytes]:
    """How often each user was."""
    numbers = range(settings.topics.partitions)
    return Counter(each.key for each in read_records(settings, settings.topics.embeddings, numbers))


def with_printed(settings: Settings, said: str) -> Settings:
    """The settings that the command printed, on top of these."""
    printed = dict(line.split("=") for line in said.splitlines() if line.startswith("LURM_"))
    topics = {name.removeprefix("LURM_TOPICS__").lower(): value for name, value in printed.items() if "TOPICS" in name}
    app = settings.app.model_copy(update={"id": printed["LURM_APP__ID"]})
    return settings.model_copy(update={"app": app, "topics": Topics(**settings.topics.model_dump() | topics)})
