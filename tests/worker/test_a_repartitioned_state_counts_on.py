import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from state.rows import RECORD_KEY
from stream.operations.repartition import UNFINISHED, in_next_epoch, new_settings, read_old, write_new
from stream.records.partitioners import partitions_of
from stream.settings import Settings, State, Worker
from stream.trial.worker_process import ChildProcess
from tests.brokers import Broker, environment_of, producer
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import (
    LURM,
    Changelog,
    Traffic,
    check_exact,
    check_published,
    embeddings,
    stopped_after,
    wait_applied,
    wait_until,
)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_repartitioned_state_counts_on(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    """From two partitions to five; whatever makes that unsafe is refused, and a killed run is run again."""
    old = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, worker = Traffic(old, seed=30), make_worker(old)
    assert "there is no state to move" in repartition(old, exit_code=1)
    worker.ready()
    traffic.send(1000)
    wait_applied(old, worker)
    before = check_exact(old, traffic.sent)
    assert "workers are in the group: members=1" in repartition(old, exit_code=1)
    assert worker.terminate() == 0
    new = target(old).model_copy(update={"state": State(dir=tmp_path / "state-new")})
    killed = ChildProcess(old, tmp_path / "repartition.log", command(old))
    n_rows = len(before.rows)
    for failpoint in (f"repartition.sent:{n_rows // 2}", "repartition.written"):
        assert killed.start(failpoint).wait() == -signal.SIGKILL, killed.output()
        assert {each.interest_space_id for each in Changelog(new).partitions.values()} == {UNFINISHED}

    moved = repartition(old)
    assert f"users={len(before.newest_seq())} rows={len(before.rows)} received=1000 applied=1000" in moved
    assert {f"LURM_APP__ID={new.app.id}", "LURM_TOPICS__PARTITIONS=5", "LURM_TOPICS__EPOCH=1"} <= set(moved.split())
    assert "holds a state already" in repartition(old, exit_code=2)
    after = check_exact(new, traffic.sent)
    assert (after.rows, after.ledger) == (before.rows, before.ledger)
    assert placed_by_the_default_partitioner(after)

    traffic.settings = new
    worker = make_worker(new).ready()
    traffic.send(1000)
    wait_applied(new, worker)
    assert placed_by_the_default_partitioner(check_exact(new, traffic.sent))
    check_published(new)
    Traffic(old, seed=31).send(7)
    assert "events wait in the old topic, and would be lost: events=7" in repartition(old, exit_code=1)


@pytest.mark.kafka
def test_a_repartitioned_state_publishes_everybody_once(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    old = settings_on(kafka_broker.brokers, worker=Worker())
    stopped_after(make_worker(old), Traffic(old, seed=33))
    new = target(old).model_copy(update={"state": State(dir=tmp_path / "state-new")})
    repartition(old)
    worker = make_worker(new).ready()
    # The walk is over, and nobody waits whom it did not publish.
    wait_until(lambda: worker.metric("lurm_embeddings_published_total") and not worker.metric("lurm_dirty_users"))
    check_published(new)
    wait_until(lambda: all(each.model_id for each in Changelog(new).partitions.values()))
    published = Counter(each.user_id.encode() for each in embeddings(new))
    assert published == dict.fromkeys(Changelog(new).newest_seq(), 1)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_difference_is_found_and_no_worker_counts_on_it(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    old = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, worker = Traffic(old, seed=32), make_worker(old).ready()
    traffic.send(200)
    wait_applied(old, worker)
    assert worker.terminate() == 0
    new = target(old)
    with read_old(old) as state:
        write_new(new, state)
    key, value = next(iter(Changelog(old).rows.items()))
    with producer(new) as client:
        client.send(new.changelog_topic, value, b"stranger" + key, partition=0).get(10)
    assert f"rows=1 topic={new.changelog_topic} partition=0; delete that topic" in repartition(old, exit_code=1)
    assert "unfinished lurm repartition" in refusal(make_worker(new), 2)


def target(old: Settings) -> Settings:
    """The settings of the application that `repartition` makes."""
    name = f"{old.app.id}-5"
    topics = {"embeddings": f"{name}-embeddings", "dead_letters": f"{name}-dead-letters", "partitions": 5}
    with read_old(old) as state:
        return in_next_epoch(new_settings(old, name, events=f"{name}-events", **topics), state)


def command(old: Settings) -> list[str | Path]:
    arguments = ["--to-app", f"{old.app.id}-5", "--to-events", f"{old.app.id}-5-events", "--partitions", "5"]
    return [LURM, "repartition", *arguments]


def repartition(old: Settings, exit_code: int = 0) -> str:
    """What the command said."""
    done = subprocess.run(command(old), env=environment_of(old), capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if exit_code else 0), done.stderr
    return done.stdout + done.stderr


def placed_by_the_default_partitioner(changelog: Changelog) -> bool:
    rows = [record for record in changelog.records if record.key != RECORD_KEY]
    homes = partitions_of([record.key[:-6] for record in rows], 5, "murmur2").tolist()
    return [record.partition for record in rows] == homes and len(rows) > 0
