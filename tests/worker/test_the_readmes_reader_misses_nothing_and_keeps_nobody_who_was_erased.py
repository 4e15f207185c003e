"""README's subscriber, taken out of the README and run: killed, refused by its database, and started again."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from stream.kafka.topics import create_missing
from stream.settings import Settings
from tests.brokers import MakeSettings
from tests.readers import ROOT, Published, readme_reader
from tests.workers import wait_until

REFUSE = """
CREATE TABLE users (user_id TEXT PRIMARY KEY, seq INTEGER, vectors BLOB);
CREATE TRIGGER no_insert BEFORE INSERT ON users WHEN turn() IN (3, 5, 40) BEGIN SELECT RAISE(ABORT, 'try later'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON users WHEN turn() IN (7, 50) BEGIN SELECT RAISE(ABORT, 'try later'); END;
"""
# What a person writes around it, and what makes the database refuse.
RETRY = """
import itertools, sqlite3, sys
connect, turns = sqlite3.connect, itertools.count(1)
def connect_and_count(path):
    connection = connect(path)
    connection.create_function("turn", 0, lambda: next(turns))
    return connection
sqlite3.connect = connect_and_count
code = compile(open("reader.py").read(), "reader.py", "exec")
while True:
    try:
        exec(code, {})
    except sqlite3.Error as error:
        print("again:", error, file=sys.stderr, flush=True)
"""


@pytest.fixture
def settings(make_kafka_settings: MakeSettings) -> Settings:
    """On real Kafka: the embedded broker keeps a group from a member that follows a killed one for over a minute, and
    hides from whoever reads on what follows an aborted transaction.
    """
    made = make_kafka_settings(partitions=2)
    create_missing(made)
    return made


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs a program in the test's folder; whatever becomes of the test, none outlives it."""
    readers: list[subprocess.Popen[bytes]] = []

    def run(program: str = "reader.py") -> subprocess.Popen[bytes]:
        with (tmp_path / "reader.log").open("ab") as log:
            command = [sys.executable, program]
            readers.append(
                subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stderr=log, stdout=log)
            )
        return readers[-1]

    yield run
    for each in readers:
        each.kill()
        each.wait()


def held(folder: Path) -> dict[str, int]:
    database = sqlite3.connect(folder / "index.db", timeout=30)
    try:
        return dict(database.execute("SELECT user_id, seq FROM users"))
    except sqlite3.OperationalError:  # the reader has not made it yet
        return {}
    finally:
        database.close()


def has_changed(folder: Path, before: dict[str, int]) -> bool:
    return held(folder) != before


def wait_for_all(folder: Path, published: Published) -> None:
    log = folder / "reader.log"
    wait_until(lambda: held(folder) == published.left, 200, lambda: (held(folder), published.left, log.read_text()))


@pytest.mark.slow
def test_it_is_killed_at_any_moment_and_started_again(settings: Settings, tmp_path: Path, start: Start) -> None:
    (tmp_path / "reader.py").write_text(readme_reader(settings, settings.app.id))
    published = Published(settings, seed=11)
    published.more(200)
    for pause_s in (0.0, 0.2, 0.0):
        reader = start()
        wait_until(partial(has_changed, tmp_path, held(tmp_path)), 120)
        time.sleep(pause_s)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        published.more(100)
    reader = start()
    wait_for_all(tmp_path, published)
    published.more(50)
    wait_for_all(tmp_path, published)
    assert published.erased - published.left.keys(), "somebody was erased for good"


def test_its_database_refuses_now_and_then_and_it_is_tried_again(
    settings: Settings, tmp_path: Path, start: Start
) -> None:
    database = sqlite3.connect(tmp_path / "index.db")
    database.executescript(REFUSE)
    database.close()
    (tmp_path / "reader.py").write_text(readme_reader(settings, settings.app.id))
    (tmp_path / "retry.py").write_text(RETRY)
    published = Published(settings, seed=12)
    published.more(100)
    start("retry.py")
    wait_for_all(tmp_path, published)
    assert (tmp_path / "reader.log").read_text().count("again: try later") > 1


def test_a_new_group_that_is_restarted_before_anything_is_published_misses_nobody(
    settings: Settings, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "reader.py").write_text(readme_reader(settings, settings.app.id))
    reader = start()
    wait_until((tmp_path / "index.db").exists)
    time.sleep(2)
    reader.terminate()
    reader.wait()
    published = Published(settings, seed=13)
    published.more(30)
    reader = start()
    wait_for_all(tmp_path, published)
