from pathlib import Path

import pytest

from stream.settings import Settings
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    Changelog,
    Traffic,
    check_exact,
    check_published,
    embeddings,
    tiny_bundle,
    wait_applied,
    wait_until,
)


def test_another_model_of_the_same_interest_space_publishes_everybody_again(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    traffic = Traffic(settings, seed=11)
    worker = make_worker(settings).ready()
    traffic.send(1500)
    wait_applied(settings, worker)
    check_published(settings)
    assert worker.terminate() == 0

    other = tiny_bundle(model_seed=1)
    other.save(tmp_path / "other")
    model = settings.model.model_copy(update={"bundle": tmp_path / "other"})
    with_other = settings.model_copy(update={"model": model})
    worker = make_worker(with_other).ready()
    everybody = set(Changelog(settings).newest_seq())
    wait_until(lambda: users_of(settings, other.model_id) == everybody)
    wait_until(lambda: {each.model_id for each in Changelog(settings).partitions.values()} == {other.model_id})
    n_embeddings = len(embeddings(settings))
    assert worker.terminate() == 0
    worker.ready()
    traffic.send_these([traffic.sent[0]])
    wait_applied(settings, worker)
    check_published(with_other)
    assert len(embeddings(settings)) == n_embeddings + 1, "after the walk over everybody, only changes are published"
    check_exact(settings, traffic.sent)


@pytest.mark.slow
def test_a_stop_during_the_walk_over_everybody_waits_for_one_batch_however_many_partitions_walk(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    """Eight encodes of three seconds would not end in time, and the worker with them."""
    settings = settings_on(broker.brokers, partitions=8)
    traffic, worker = Traffic(settings, seed=12), make_worker(settings).ready()
    traffic.send(1500)
    wait_applied(settings, worker)
    check_published(settings)
    assert worker.terminate() == 0

    tiny_bundle(model_seed=1).save(tmp_path / "other")
    model = settings.model.model_copy(update={"bundle": tmp_path / "other"})
    settings = settings.model_copy(update={"model": model})
    worker = make_worker(settings).start("encode.started:1+=3").ready()
    wait_until(lambda: worker.metric("lurm_embeddings_published_total") > 0, explain=worker.output)
    assert worker.terminate() == 0, worker.output()
    worker.ready()
    check_published(settings)
    check_exact(settings, traffic.sent)


def users_of(settings: Settings, model_id: str) -> set[bytes]:
    return {each.user_id.encode() for each in embeddings(settings) if each.model_id == model_id}
