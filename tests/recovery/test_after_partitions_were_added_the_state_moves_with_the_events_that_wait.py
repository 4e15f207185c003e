"""What the worker says that an operator should do, done: no event is lost, though no worker could count the last."""

import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from stream.kafka.connection import client_arguments
from stream.settings import Settings, State, Worker
from stream.trial.worker_process import ChildProcess
from tests.brokers import Broker, environment_of
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    LURM,
    Traffic,
    check_exact,
    check_published,
    delete_records,
    second,
    stopped_after,
    wait_applied,
    wait_until,
)


@pytest.mark.slow
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
    send_large(old)
    wait_until(lambda: is_empty(old))
    assert "partitions were added" in lurm(old, "erase", "user-0", exit_code=2)

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
    check_exact(new, traffic.sent, n_rejected=1)
    check_published(new)


@pytest.mark.slow
@pytest.mark.kafka
def test_an_erasure_that_waits_is_named_and_deleted_events_are_not_passed_over(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    old = settings_on(kafka_broker.brokers, worker=Worker())
    traffic = Traffic(old, seed=63)
    stopped_after(make_worker(old), traffic)
    assert "the erasure is not finished" in lurm(old, "erase", "user-0", "--timeout", "1", exit_code=1)
    add_partitions(old, 3)
    traffic.send(100)
    wait_until(lambda: is_empty(old))
    app = f"{old.app.id}-5"
    move = ("repartition", "--to-app", app, "--to-events", f"{app}-events", "--partitions", "5")
    delete_records(old, old.topics.events)
    assert "retention deleted unread events" in lurm(old, *move, exit_code=1)
    accepting = old.model_copy(update={"kafka": old.kafka.model_copy(update={"data_loss": "accept"})})
    said = lurm(accepting, *move)
    assert "ask again with the new settings: lurm erase user-0" in said
    new = with_printed(old, said)
    worker = make_worker(new).ready()
    assert '"ok":true' in lurm(new, "erase", "user-0")
    assert worker.terminate() == 0


def send_large(settings: Settings) -> None:
    """Compressed it fits the topic, and it is too large for any event."""
    arguments = client_arguments(settings.kafka) | {"compression_type": "gzip", "max_request_size": 1 << 24}
    with closing(KafkaProducer(**arguments, acks="all")) as client:
        client.send(settings.topics.events, bytes(2 << 20), b"user-1").get(30)


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
    command: list[str | Path] = [LURM, *arguments]
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
