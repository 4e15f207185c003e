"""A walk over everybody that was cut off, and an embeddings topic that is another: whole workers on real Kafka."""

import signal
from pathlib import Path

import pytest

from stream.kafka.output import unpublished
from stream.settings import Settings
from stream.trial.worker_process import ChildProcess
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    LURM,
    Changelog,
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    newest_published,
    recreate,
    tiny_bundle,
    wait_applied,
    wait_until,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
def published(kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker) -> WorkerProcess:
    """A worker whose every user is published, stopped; it encodes eight users at once."""
    settings = settings_on(kafka_broker.brokers)
    settings = settings.model_copy(update={"encode": settings.encode.model_copy(update={"batch_users": 8})})
    worker, traffic = make_worker(settings).ready(), Traffic(settings, seed=41)
    traffic.send(600)
    wait_applied(settings, worker)
    check_published(settings)
    wait_until(lambda: is_noted(settings))
    assert worker.terminate() == 0, worker.output()
    check_exact(settings, traffic.sent)
    return worker


def is_noted(settings: Settings) -> bool:
    """Whether the partition records say that everybody is published, and no walk is under way."""
    return all(
        record.walk is None and record.published == record.next_offset
        for record in Changelog(settings).partitions.values()
    )


def with_model(settings: Settings, folder: Path, seed: int) -> Settings:
    """The same worker with another model of the same interests."""
    tiny_bundle(model_seed=seed).save(folder / f"model-{seed}")
    return settings.model_copy(update={"model": settings.model.model_copy(update={"bundle": folder / f"model-{seed}"})})


def verified(settings: Settings, folder: Path) -> tuple[int, str]:
    """Exit code and output of `lurm verify`."""
    with ChildProcess(settings, folder / "verify.log", [LURM, "verify"]) as verify:
        return verify.start().wait(), verify.output()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["encode.committed:3", "encode.cleared:4"])
def test_a_model_rolled_back_in_the_middle_of_its_walk_leaves_nobody_with_the_others_vectors(
    published: WorkerProcess, make_worker: MakeWorker, tmp_path: Path, step: str
) -> None:
    settings = published.settings
    other = make_worker(with_model(settings, tmp_path, 1))
    assert other.start(step).wait() == -signal.SIGKILL, other.output()
    models = {each.model_id for each in newest_published(settings).values()}
    assert len(models) == 2, "some users have the other model's vectors"
    published.ready()
    check_published(settings)
    wait_until(lambda: is_noted(settings))
    assert published.terminate() == 0
    n_before = len(newest_published(settings))
    published.ready()
    check_published(settings)
    assert published.metric("lurm_embeddings_published_total") == 0, "a walk that is through is not walked again"
    assert len(newest_published(settings)) == n_before
    code, said = verified(settings, tmp_path)
    assert (code, f"equal={n_before} different=0 pending=0 missing=0" in said) == (0, True), said


def test_an_embeddings_topic_that_was_made_anew_gets_everybody_while_the_worker_runs(
    published: WorkerProcess, tmp_path: Path
) -> None:
    settings, traffic = published.settings, Traffic(published.settings, seed=42)
    published.ready()
    traffic.send(50)
    wait_applied(settings, published)
    check_published(settings)
    recreate(settings, settings.topics.embeddings)
    check_published(settings)
    assert published.metric("lurm_walks_total", cause="topic") == settings.topics.partitions
    assert "another topic: everybody is published again" in published.output()
    assert verified(settings, tmp_path)[0] == 0


@pytest.mark.slow
def test_an_embeddings_topic_that_was_made_anew_so_that_it_forgets_users_ends_the_worker(
    published: WorkerProcess,
) -> None:
    settings, topic = published.settings, published.settings.topics.embeddings
    published.ready()
    recreate(settings, topic, {"cleanup.policy": "delete"})
    assert published.wait() == 2, published.output()
    assert f"topic {topic}: found cleanup.policy=delete, wanted cleanup.policy=compact" in published.output()


@pytest.mark.slow
def test_an_embeddings_topic_that_was_made_anew_or_renamed_while_no_worker_ran_gets_everybody(
    published: WorkerProcess, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = published.settings
    n_users = len(newest_published(settings))
    recreate(settings, settings.topics.embeddings)
    code, said = verified(settings, tmp_path)
    assert (code, f"pending=0 missing={n_users}" in said) == (1, True), said
    assert [problem.topic for problem in unpublished(settings)] == [settings.topics.embeddings]
    published.ready()
    check_published(settings)
    assert not unpublished(settings)
    assert published.terminate() == 0
    topics = settings.topics.model_copy(update={"embeddings": f"{settings.topics.embeddings}-renamed"})
    renamed = make_worker(settings.model_copy(update={"topics": topics})).ready()
    check_published(renamed.settings)
