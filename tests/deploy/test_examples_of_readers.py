"""The readers of deploy/examples, run as a user would on real Kafka: all that is left, and nobody who was erased."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from stream.kafka.topics import create_missing
from stream.settings import Settings
from tests.brokers import MakeSettings, kafka_home
from tests.deploy.conftest import MAKE_TOOLS, TOOLS, require
from tests.readers import ROOT, Published
from tests.workers import wait_until

EXAMPLES = ROOT / "deploy" / "examples"
KAFKAJS = TOOLS.parent / "node_modules" / "kafkajs"


def java() -> tuple[list[str], Mapping[str, str]]:
    require("no Java compiler is installed: `apt-get install openjdk-17-jdk-headless`", "javac")
    return ["java", "-cp", f"{kafka_home()}/libs/*", str(EXAMPLES / "Reader.java")], {}


def node() -> tuple[list[str], Mapping[str, str]]:
    require("Node is not installed: `apt-get install nodejs npm`", "node")
    if not KAFKAJS.exists():
        assert not os.environ.get("CI"), MAKE_TOOLS
        pytest.skip(MAKE_TOOLS)
    return ["node", str(EXAMPLES / "reader.js")], {"NODE_PATH": str(KAFKAJS.parent)}


@pytest.fixture
def settings(make_kafka_settings: MakeSettings) -> Settings:
    made = make_kafka_settings(partitions=2)
    create_missing(made)
    return made


@pytest.fixture(params=[java, node])
def start(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the reader, which goes on with its output where the one before ended."""
    command, environment = request.param()
    started: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        with (tmp_path / "out").open("ab") as out, (tmp_path / "err").open("ab") as err:
            arguments = [*command, settings.kafka.brokers, settings.topics.embeddings, settings.app.id]
            started.append(subprocess.Popen(arguments, env={**os.environ, **environment}, stdout=out, stderr=err))
            return started[-1]

    yield run
    for each in started:
        each.kill()
        each.wait()


def held(out: Path) -> dict[str, int]:
    """What a database would hold that was told these lines."""
    users: dict[str, int] = {}
    for line in out.read_text().splitlines():
        what, user, *facts = line.split("\t")
        if what == "delete":
            users.pop(user, None)
        else:
            seq, n_numbers = map(int, facts)
            assert n_numbers == 2
            users[user] = seq
    return users


@pytest.mark.slow
def test_a_reader_of_another_language_misses_nothing_and_keeps_nobody_who_was_erased(
    settings: Settings, tmp_path: Path, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    published, out = Published(settings, seed=21), tmp_path / "out"

    def wait_for_all() -> None:
        wait_until(lambda: held(out) == published.left, 120, lambda: (tmp_path / "err").read_text()[-2000:])

    published.more(100)
    reader = start()
    wait_for_all()
    published.more(50)
    wait_for_all()
    reader.terminate()
    reader.wait()
    published.more(100)
    start()
    wait_for_all()
    assert published.erased - published.left.keys(), "somebody was erased for good"
