"""The lag is what the broker says: right before the first worker, while none runs, and with control records."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.cli import run
from stream.kafka.connection import admin, consumer_arguments
from stream.kafka.lag import LagReader
from stream.kafka.topics import create_missing
from stream.operations.scrape import is_ready, scrape, value
from stream.settings import Settings
from tests.brokers import Broker, MakeSettings, environment_of, fresh_settings, new_broker, producer
from tests.conftest import KINDS
from tests.workers import wait_until

StartExporter = Callable[[Settings], tuple[int, subprocess.Popen]]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=2)
    create_missing(made)
    return made


def send(settings: Settings, partition: int, *timestamps_s: float, transactional_id: str | None = None) -> None:
    with producer(settings, transactional_id) as client:
        if transactional_id:
            client.begin_transaction()
        for timestamp_s in timestamps_s:
            client.send(
                settings.topics.events, b"{}", b"ann", partition=partition, timestamp_ms=int(timestamp_s * 1000)
            )
        client.flush()
        if transactional_id:
            client.commit_transaction()


def commit(settings: Settings, partition: int, offset: int) -> None:
    consumer = KafkaConsumer(**consumer_arguments(settings.kafka) | {"group_id": settings.app.id})
    at = TopicPartition(settings.topics.events, partition)
    consumer.assign([at])
    consumer.commit({at: OffsetAndMetadata(offset, "", -1)})
    consumer.close(autocommit=False)


def test_without_a_commit_everything_is_behind_and_the_first_record_tells_since_when(settings: Settings) -> None:
    now_s = time.time()
    send(settings, 0, now_s - 50, now_s - 40, now_s - 30)
    with LagReader(settings) as reader:
        first, second = reader.read(now_s)
    assert (first.partition, first.committed, first.end, first.lag_events) == (0, None, 3, 3)
    assert first.lag_seconds == pytest.approx(50, abs=0.01)
    assert (second.lag_events, second.lag_seconds) == (0, 0.0)


def test_one_reader_sees_the_group_advance(settings: Settings) -> None:
    now_s = time.time()
    send(settings, 0, now_s - 50, now_s - 40)
    send(settings, 1, now_s - 20, now_s - 10)
    with LagReader(settings) as reader:
        commit(settings, 0, 1)
        commit(settings, 1, 1)
        assert [round(each.lag_seconds) for each in reader.read(now_s)] == [40, 10]
        commit(settings, 0, 2)
        after = reader.read(now_s)
    assert [(each.committed, each.lag_events, round(each.lag_seconds)) for each in after] == [(2, 0, 0), (1, 1, 10)]


def test_one_reader_sees_partitions_that_are_added(settings: Settings) -> None:
    with LagReader(settings) as reader:
        assert len(reader.read(time.time())) == 2
        with admin(settings) as client:
            client.create_partitions({settings.topics.events: 4})
        send(settings, 3, time.time())
        assert [each.lag_events for each in reader.read(time.time())] == [0, 0, 0, 1]


def test_control_records_have_no_age(make_kafka_settings: MakeSettings) -> None:
    settings = make_kafka_settings(partitions=1)
    create_missing(settings)
    now_s = time.time()
    send(settings, 0, now_s - 50, transactional_id=f"{settings.app.id}-x")
    commit(settings, 0, 1)
    with LagReader(settings) as reader:
        assert [(each.end, each.lag_events, each.lag_seconds) for each in reader.read(now_s)] == [(2, 1, 0.0)]


def test_what_an_open_transaction_hides_is_shown_although_nobody_is_behind(make_kafka_settings: MakeSettings) -> None:
    settings = make_kafka_settings(partitions=1)
    create_missing(settings)
    now_s = time.time()
    send(settings, 0, now_s - 50)
    commit(settings, 0, 1)
    with LagReader(settings) as reader, producer(settings, f"{settings.app.id}-x") as client:
        client.begin_transaction()
        client.send(settings.topics.events, b"{}", b"ann", partition=0).get(30)
        send(settings, 0, *[now_s - 40] * 200)
        (hidden,) = reader.read(now_s)
        assert (hidden.end, hidden.lag_events, hidden.lag_seconds, hidden.hidden_events) == (1, 0, 0.0, 201)
        client.abort_transaction()
        wait_until(lambda: reader.read(now_s)[0].hidden_events == 0)
        assert reader.read(now_s)[0].lag_events == 202


def test_the_command_prints_a_table_or_json(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in environment_of(settings).items():
        monkeypatch.setenv(name, text)
    send(settings, 1, time.time() - 50, time.time())
    assert run(["lag", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["lag_events"] == 2
    assert found["partitions"][1]["lag_events"] == 2
    assert run(["lag"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["partition", "committed", "end", "lag_events", "lag_seconds", "hidden_events"]
    assert lines[2][:4] == ["1", "none", "2", "2"]
    monkeypatch.setenv("LURM_TOPICS__EVENTS", "nowhere")
    assert run(["lag"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.fixture
def one_own_broker(tmp_path: Path) -> Iterator[Broker]:
    broker = new_broker(KINDS[-1], tmp_path / "broker")
    yield broker
    broker.kill()


@pytest.fixture
def start_exporter(tmp_path: Path, request: pytest.FixtureRequest) -> StartExporter:
    def start(settings: Settings) -> tuple[int, subprocess.Popen]:
        log = tmp_path / "exporter.log"
        command = [sys.executable, "-m", "stream.cli", "exporter", "--port", "0", "--interval-s", "0.5"]
        with log.open("wb") as file:
            child = subprocess.Popen(command, env=environment_of(settings), stdout=file, stderr=file)
        request.addfinalizer(child.wait)
        request.addfinalizer(child.kill)
        wait_until(lambda: "address=" in log.read_text(), explain=log.read_text)
        return int(re.findall(r"address=.*:(\d+)", log.read_text())[0]), child

    return start


def test_the_exporter_goes_on_when_the_broker_was_away_and_says_nothing_meanwhile(
    one_own_broker: Broker, start_exporter: StartExporter
) -> None:
    kafka_settings = fresh_settings(one_own_broker.start().brokers)
    create_missing(kafka_settings)
    send(kafka_settings, 0, time.time() - 50)
    port, child = start_exporter(kafka_settings)
    wait_until(lambda: value(scrape(port), "lurm_group_lag_events") == 1)
    assert value(scrape(port), "lurm_group_lag_seconds", app=kafka_settings.app.id, partition="0") > 49
    assert is_ready(port)
    one_own_broker.stop()
    wait_until(lambda: not is_ready(port))
    samples = scrape(port)
    assert (value(samples, "lurm_exporter_up"), value(samples, "lurm_group_lag_events")) == (0, 0)
    one_own_broker.start()
    wait_until(lambda: value(scrape(port), "lurm_group_lag_events") == 1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0
