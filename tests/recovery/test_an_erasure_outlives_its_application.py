"""Who reads the same events from the first one on, another application or a state built anew, skips the erased."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from stream.kafka.connection import client_arguments
from stream.settings import Settings
from tests.brokers import Broker
from tests.erasures import another_application, check_exact_without, erased, life
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, recreate, wait_applied, wait_until

ZOE = "zoë"


def test_erased_users_do_not_return_under_another_app_id(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    traffic, worker = Traffic(settings, seed=71), make_worker(settings)
    traffic.send(200)
    traffic.send_these([*life("ann", 5), *life(ZOE, 3)])
    worker.ready()
    wait_applied(settings, worker)
    receipts = [erased(settings, user) for user in ("ann", ZOE)]
    traffic.send_these([*life("bob", 2), *life(ZOE, 2)])
    wait_applied(settings, worker)
    assert worker.terminate() == 0, worker.output()

    other = another_application(settings, tmp_path)
    beside = make_worker(other).ready()
    wait_applied(other, beside)
    newest = check_exact_without(other, receipts, anew=True).newest_seq()
    assert b"ann" not in newest
    assert ZOE.encode() in newest, "what came after the erasure is a new life"


@pytest.mark.slow
@pytest.mark.kafka
def test_erased_users_do_not_return_when_the_state_is_built_anew_after_their_markers_have_expired(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(kafka_broker.brokers)
    traffic, worker = Traffic(settings, seed=72), make_worker(settings)
    traffic.send(200)
    traffic.send_these([*life("ann", 5), *life(ZOE, 3)])
    worker.ready()
    wait_applied(settings, worker)
    receipts = [erased(settings, user) for user in ("ann", ZOE)]
    traffic.send_these(life(ZOE, 2))
    wait_applied(settings, worker)
    assert worker.terminate() == 0, worker.output()
    build_anew(settings)
    worker.ready()
    wait_applied(settings, worker)
    newest = check_exact_without(settings, receipts, anew=True).newest_seq()
    assert b"ann" not in newest
    assert ZOE.encode() in newest


def build_anew(settings: Settings) -> None:
    """Forget rows, markers, disks and how far the group had read; the control topic's retention does so in time."""
    for topic in (settings.changelog_topic, settings.control_topic):
        recreate(settings, topic)
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        wait_until(lambda: admin.delete_groups([settings.app.id]) == {settings.app.id: "OK"})
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
