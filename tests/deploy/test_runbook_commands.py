"""Every command line of the runbook runs as it is printed, on a real Kafka with a worker; Kafka's tools also with TLS.

Only ports are changed, to free ones.
"""

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka import KafkaProducer

from state.periods import MS_PER_DAY
from stream.kafka.connection import client_arguments
from stream.kafka.topics import create_missing
from stream.settings import Kafka, Metrics, Settings
from stream.trial.embedded_broker import free_ports
from tests.brokers import FAST, Broker, environment_of, fresh_settings, kafka_home, producer
from tests.conftest import NO_KAFKA
from tests.deploy.kafka_tools import write_tools
from tests.secured import PASSWORD, SecuredKafka
from tests.workers import LURM, Traffic, WorkerProcess, tiny_bundle, wait_applied, wait_until, worker_settings

TEXT = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")
# What one finds, by what stands in the command.
SHOWN = {
    "kafka-console-consumer.sh": "__lurm.errors.reason:not_json",
    "--state": "Stable",
    "--members": "HOST",
    " list": "Ongoing",
    "describe --status": "LeaderId",
    "lurm lag": "lag_events",
    "readyz": "ok",
}
ADDRESS = "--bootstrap-server $LURM_KAFKA__BROKERS"


def command_lines(*programs: str) -> list[str]:
    """The lines of these programs in blocks of shell and within sentences; each once, in their order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", TEXT)
    return [line for line in dict.fromkeys(lines) if re.match(rf"(?:{'|'.join(programs)})(?: |$)", line)]


KAFKA_LINES = command_lines(r"kafka-[a-z-]+\.sh")
SERVERS = command_lines("lurm console", "lurm exporter")
LINES = [line for line in command_lines("lurm", "curl") if line not in SERVERS] + KAFKA_LINES


class Place(NamedTuple):
    """Where an operator types."""

    folder: Path
    variables: dict[str, str]
    ports: dict[str, int]

    def type(self, line: str) -> tuple[int, str]:
        """Exit code and everything printed."""
        for printed, free in self.ports.items():
            line = line.replace(f":{printed}/", f":{free}/")
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def plain(session_brokers: dict[str, Broker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if "kafka" not in session_brokers:
        pytest.skip(NO_KAFKA)
    kafka = Kafka(brokers=session_brokers["kafka"].start().brokers, **FAST)
    with place(kafka, tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With the properties of the runbook, where only the password is another."""
    home, folder = kafka_home(), tmp_path_factory.mktemp("secured")
    if home is None:
        pytest.skip(NO_KAFKA)
    broker = SecuredKafka(home, folder)
    try:
        broker.start()
        (properties,) = re.findall(r"^```properties\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
        (folder / "client.properties").write_text(properties.replace('"..."', f'"{PASSWORD}"'))
        with place(broker.settings(), folder) as made:
            yield made
    finally:
        broker.broker.kill()


@contextmanager
def place(kafka: Kafka, folder: Path) -> Iterator[Place]:
    """A worker that applied and rejected events, an exporter, a transaction that hangs, all programs on the path."""
    tiny_bundle().save(folder / "bundle")
    port, exporter_port = free_ports(2)
    settings = worker_settings(kafka.brokers, folder, folder / "bundle", kafka=kafka, metrics=Metrics(port=port))
    gone = f"{settings.app.id}-gone"
    path = f"{write_tools(folder / 'tools')}:{LURM.parent}:{os.environ['PATH']}"
    variables = dict(os.environ) | environment_of(settings) | {"PATH": path, "ID": gone, "OMP_NUM_THREADS": "1"}
    exporter: list[str | Path] = [LURM, "exporter", "--port", str(exporter_port)]
    with ExitStack() as stack:
        worker = stack.enter_context(WorkerProcess(settings, folder / "worker.log")).ready()
        stack.enter_context(WorkerProcess(settings, folder / "exporter.log", exporter)).ready()
        Traffic(settings, seed=3).send(200)
        with producer(settings) as client:
            for _ in range(10):
                client.send(settings.topics.events, b"{", b"ann")
        wait_applied(settings, worker)
        # It hangs for as long as a broker lets it.
        arguments = client_arguments(settings.kafka) | {"transactional_id": gone, "transaction_timeout_ms": 900_000}
        hanging = stack.enter_context(closing(KafkaProducer(**arguments)))
        hanging.init_transactions()
        hanging.begin_transaction()
        hanging.send(fresh_topic(settings), b"never committed").get(30)
        write_events(folder)
        made = Place(folder, variables, {"9108": port, "9109": exporter_port})
        wait_until(lambda: made.type("lurm verify --sample 10")[0] == 0)
        yield made


def fresh_topic(settings: Settings) -> str:
    """A topic that nobody reads."""
    other = fresh_settings(settings.kafka.brokers, kafka=settings.kafka)
    create_missing(other)
    return other.topics.events


def write_events(folder: Path) -> None:
    """The files that the commands name, with events enough to train on."""
    pick = random.Random(5)
    events = [
        {
            "user_id": f"u{n % 120}",
            "item_id": f"i{pick.randrange(110)}",
            "ts": (11_000 + n // 30) * MS_PER_DAY,
            "attributes": {"shelf": str(n % 7)},
        }
        for n in range(2_400)
    ]
    text = "\n".join(map(json.dumps, events))
    for name in set(re.findall(r"\w+\.jsonl", TEXT)):
        (folder / name).write_text(text)


def test_the_variables_that_the_commands_use_have_the_defaults_that_are_printed() -> None:
    (line,) = command_lines("export")
    defaults = Settings()
    assert dict(each.split("=") for each in line.split()[1:]) == {
        "LURM_APP__ID": defaults.app.id,
        "LURM_KAFKA__BROKERS": defaults.kafka.brokers,
        "LURM_TOPICS__DEAD_LETTERS": defaults.topics.dead_letters,
    }
    assert set(re.findall(r"\$(LURM_\w+)", " ".join(LINES))) <= set(re.findall(r"LURM_\w+", line))


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_command_runs_as_it_is_printed(line: str, plain: Place) -> None:
    check(line, plain)


@pytest.mark.parametrize("line", KAFKA_LINES)
def test_a_tool_of_kafka_logs_in_with_the_properties_that_are_printed(line: str, secured: Place) -> None:
    assert ADDRESS in line
    check(line.replace(ADDRESS, f"{ADDRESS} --command-config client.properties"), secured)


def check(line: str, where: Place) -> None:
    exit_code, said = where.type(line)
    assert exit_code == 0, said
    for words, shown in SHOWN.items():
        assert words not in line or shown in said, said


@pytest.mark.parametrize("line", SERVERS)
def test_a_command_that_serves_does_so_until_it_is_stopped(line: str, plain: Place, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["bash", "-c", f"exec {line} --port 0"]
    with said.open("wb") as file, subprocess.Popen(command, env=plain.variables, stdout=file, stderr=file) as process:
        wait_until(lambda: "serving" in said.read_text() or process.poll() is not None, explain=said.read_text)
        process.terminate()
        assert process.wait(30) == 0, said.read_text()
