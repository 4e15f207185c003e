import shutil

from stream.settings import Kafka
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk, killed_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


def test_kill_9_during_recovery_only_delays_it(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(broker.brokers, kafka=Kafka(brokers=broker.brokers, **FAST | {"poll_events": 100}))
    traffic = Traffic(settings, seed=34)
    traffic.send(3000)
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    # Killed, so that embeddings and their marks are behind the rows, and then its disk is lost.
    worker.kill()
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    for passage in (1, 3):
        killed_at(worker, "recovery.replayed", passage)
    worker.ready()
    traffic.send(500)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
