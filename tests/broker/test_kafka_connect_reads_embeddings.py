"""Kafka Connect hands embeddings to a sink whole, with the converters that the README names."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from state.periods import MS_PER_DAY
from stream.kafka.topics import create_missing
from stream.settings import Settings
from stream.trial.embedded_broker import free_ports
from tests.broker.state_writer import StateWriter
from tests.brokers import MakeSettings, kafka_home, producer
from tests.plain import PlainEvent
from tests.workers import FIRST_DAY, tiny_bundle, wait_until

SOURCE = Path(__file__).parent / "connect" / "PrintingSink.java"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def converters() -> dict[str, str]:
    """The lines of the README's properties."""
    (block,) = [part.partition("```")[0] for part in README.split("```properties\n")[1:] if "header.converter" in part]
    return dict(line.split("=", 1) for line in block.splitlines() if line and not line.startswith("#"))


@contextmanager
def connect(settings: Settings, folder: Path, sinks: dict[str, dict[str, str]]) -> Iterator[Path]:
    """A standalone worker with these sinks, each printing to the file of its name; the worker's log."""
    home = kafka_home()
    assert home is not None
    libs, log = f"{home}/libs/*", folder / "connect.log"
    subprocess.run(["javac", "-cp", libs, "-d", folder / "classes", SOURCE], check=True, capture_output=True)
    worker = {
        "bootstrap.servers": settings.kafka.brokers,
        "offset.storage.file.filename": str(folder / "offsets"),
        "listeners": f"http://127.0.0.1:{free_ports(1)[0]}",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "plugin.discovery": "only_scan",
        "connector.client.config.override.policy": "All",
    }
    written = [write(folder / "worker.properties", worker)]
    for name, own in sinks.items():
        sink = {"name": name, "connector.class": "PrintingSink", "topics": settings.topics.embeddings}
        written.append(write(folder / f"{name}.properties", sink | {"file": str(folder / name)} | own))
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{libs}:{folder / 'classes'}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "org.apache.kafka.connect.cli.ConnectStandalone", *written], stdout=out, stderr=out
        )
    try:
        yield log
    finally:
        process.kill()
        process.wait()


def write(path: Path, properties: dict[str, str]) -> Path:
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return path


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_connect_reads_embeddings_with_the_documented_converters(
    make_kafka_settings: MakeSettings, tmp_path: Path
) -> None:
    """With Connect's own default for headers the shape is another: text that begins like a number becomes it."""
    if shutil.which("javac") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a sink for Kafka Connect needs a JDK: javac")
    settings, bundle = make_kafka_settings(), tiny_bundle()
    create_missing(settings)
    events = [PlainEvent(user, 1, FIRST_DAY * MS_PER_DAY) for user in (b"ann", "Zoë".encode())]
    writer = StateWriter(settings, bundle)
    writer.write_embeddings(events)
    with producer(settings) as client:
        client.send(settings.topics.embeddings, None, b"gone", partition=0)
        client.flush()
    sinks = {"documented": converters(), "default": {}}
    with connect(settings, tmp_path, sinks) as log:

        def printed(name: str) -> list[str]:
            return (tmp_path / name).read_text().splitlines() if (tmp_path / name).exists() else []

        wait_until(lambda: all(len(printed(name)) == 3 for name in sinks), explain=log.read_text)
    shape = f"{bundle.config.n_vectors},{bundle.config.d_anchor}"
    n_bytes = 4 * bundle.config.n_vectors * bundle.config.d_anchor
    found = {line.split()[0]: line for line in printed("documented")}
    for user in ("ann", "Zoë"):
        assert f" bytes={n_bytes} " in found[f"key={user}"]
        assert f" shape={shape} " in found[f"key={user}"]
        assert f" model_id={bundle.model_id} " in found[f"key={user}"]
    assert " bytes=erased" in found["key=gone"]
    assert not any(f" shape={shape} " in line for line in printed("default"))
