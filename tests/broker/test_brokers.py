"""Our own brokers come up, keep their data on one port, and never outlive whoever started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.kafka.topics import create_missing
from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka, EmbeddedBroker, start_broker
from tests.brokers import Broker, fresh_settings, kafka_home, producer, read_records
from tests.conftest import NO_KAFKA


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()


def _send(settings: Settings, topic: str, values: list[bytes]) -> None:
    with producer(settings) as client:
        for value in values:
            client.send(topic, value, partition=0)
        client.flush()


def test_a_stopped_broker_resumes_its_data_on_the_same_port(own_broker: Broker) -> None:
    settings = fresh_settings(own_broker.start().brokers)
    create_missing(settings)
    _send(settings, settings.topics.events, [b"1", b"2"])
    own_broker.stop()
    assert own_broker.start().brokers == settings.kafka.brokers
    _send(settings, settings.topics.events, [b"3"])
    assert [record.value for record in read_records(settings, settings.topics.events, [0])] == [b"1", b"2", b"3"]


def test_a_killed_broker_is_gone_at_once_and_can_be_started_again(own_broker: Broker) -> None:
    pid = own_broker.start().pid
    own_broker.kill()
    assert not _alive(pid)
    with pytest.raises(BrokerUnavailable, match="not running"):
        _ = own_broker.pid
    assert own_broker.start().pid != pid


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from stream.trial.embedded_broker import EmbeddedBroker\n"
        "print(EmbeddedBroker(Path(sys.argv[1])).start().pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def test_the_context_stops_the_broker(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        pid = broker.pid
        assert _alive(pid)
    assert not _alive(pid)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "a") as first:
        second = EmbeddedBroker(tmp_path / "b")
        second.port = first.port
        with pytest.raises(BrokerUnavailable, match=f"taken by another process: port={first.port}"):
            second.start()


def test_a_broker_that_ends_at_once_says_why(tmp_path: Path) -> None:
    (tmp_path / "kafka.json").write_text("no snapshot")
    broker = EmbeddedBroker(tmp_path)
    with pytest.raises(BrokerUnavailable, match=r"did not come up.*snapshot.*log="):
        broker.start()


def test_without_java_kafka_is_refused_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigInvalid, match="install Java 17"):
        ApacheKafka(tmp_path, tmp_path / "data").start()


def test_a_folder_that_is_no_kafka_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ConfigInvalid, match="KAFKA_HOME"):
        start_broker(tmp_path / "data")


@pytest.mark.kafka
def test_a_cluster_of_three_survives_the_loss_of_one(tmp_path: Path) -> None:
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    nodes = ApacheKafka.cluster(home, tmp_path, 3)
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        settings = fresh_settings(",".join(node.brokers for node in nodes))
        create_missing(settings)
        nodes[0].kill()
        _send(settings, settings.topics.events, [b"1"])
        assert [record.value for record in read_records(settings, settings.topics.events, [0])] == [b"1"]
    finally:
        for node in nodes:
            node.kill()
