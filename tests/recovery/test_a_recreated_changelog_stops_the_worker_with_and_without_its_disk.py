import shutil
from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from stream.kafka.connection import client_arguments
from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, recreate, stopped_after, wait_applied, wait_until


def test_a_recreated_changelog_stops_the_worker_with_and_without_its_disk(
    settings: Settings, make_worker: MakeWorker
) -> None:
    worker = make_worker(settings)
    stopped_after(worker, Traffic(settings, seed=17))
    recreate(settings, settings.changelog_topic)
    # Without topic ids, as on the embedded broker, only its length tells.
    refused = refusal(worker, 1)
    assert "was it recreated?" in refused
    assert "remove LURM_STATE__DIR and reset the group's offsets" in refused
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    assert "the changelog is behind the group's offset; was it deleted?" in refusal(worker, 1)


@pytest.mark.kafka
def test_who_follows_the_hint_has_every_count_again(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker deletes no group."""
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    traffic, worker = Traffic(settings, seed=55), make_worker(settings)
    stopped_after(worker, traffic)
    recreate(settings, settings.changelog_topic)
    traffic.send(300)
    assert "remove LURM_STATE__DIR and reset the group's offsets" in refusal(worker, 1)
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        # Not while the worker that was refused is still a member.
        wait_until(lambda: admin.delete_groups([settings.app.id]) == {settings.app.id: "OK"})
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
