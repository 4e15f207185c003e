"""What the worker says that an operator should do, done: no event is lost, though no worker could count the last."""

import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from stream.connection import client_arguments
from stream.settings import Settings, State, Worker
from stream.worker_process import ChildProcess
from tests.brokers import Broker, environment_of
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import LURM, Traffic, check_exact, check_published, second, wait_applied, wait_until


@pytest.mark.kafka
def test_after_partitions_were_added_the_state_moves_with_the_events_that_wait(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    old = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, workers = Traffic(old, seed=62), [make_worker(old).ready(), make_worker(second(old)).ready()]
    traffic.send(500)
    wait_applied(old, *workers)
    add_partitions(old, 3)
    # Its producer knows the new partition before the workers do.
    with traffic.flowing(200):
        for worker in workers:
            assert worker.wait() == 1, worker.output()
            assert "partitions were added to the events topic" in worker.output()
            assert "`lurm repartition`" in worker.output()
    traffic.send(500)
    wait_until(lambda: is_empty(old))

    app = f"{old.app.id}-5"
    move = ("repartition", "--to-app", app, "--to-events", f"{app}-events", "--partitions", "5")
    killed = ChildProcess(old, tmp_path / "repartition.log", [LURM, *move])
    assert killed.start("repartition.sent_on").wait() == -signal.SIGKILL, killed.output()
    assert "delete that topic and run this again" in lurm(old, *move, exit_code=1)
    delete(old, f"{app}-events")
    said = lurm(old, *move)
    assert "sent on to the new events topic: events=" in said
    new = with_printed(old, said).model_copy(update={"state": State(dir=tmp_path / "state-new")})

    traffic.settings = new
    moved = [make_worker(new).ready(), make_worker(second(new)).ready()]
    traffic.send(500)
    wait_applied(new, *moved)
    check_exact(new, traffic.sent)
    check_published(new)


def is_empty(settings: Settings) -> bool:
    """Whether the group has forgotten its workers."""
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        return bool(admin.describe_groups([settings.app.id])[settings.app.id]["group_state"] == "Empty")


def add_partitions(settings: Settings, n: int) -> None:
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.create_partitions({settings.topics.events: n})


def delete(settings: Settings, topic: str) -> None:
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics())


def lurm(settings: Settings, *arguments: str, exit_code: int = 0) -> str:
    """What the command said."""
    command = [LURM, *arguments]
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    return done.stdout + done.stderr


def with_printed(old: Settings, said: str) -> Settings:
    """The old settings with those that the command printed."""
    new = old.model_dump()
    for variable, value in (line.split("=") for line in said.splitlines() if line.startswith("LURM_")):
        section, name = variable.removeprefix("LURM_").lower().split("__")
        new[section][name] = value
    return Settings.model_validate(new)
