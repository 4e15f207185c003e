import pytest

from stream.settings import Kafka
from tests.brokers import FAST, Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


@pytest.mark.slow
def test_sigterm_during_a_batch_finishes_it(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """And so during an encode: each run is told to stop at that step of its own work."""
    settings = settings_on(broker.brokers, kafka=Kafka(brokers=broker.brokers, **FAST | {"poll_events": 100}))
    traffic = Traffic(settings, seed=35)
    worker = make_worker(settings)
    for step in ("batch.merged", "batch.offset_sent", "batch.committed", "encode.started", "encode.sent"):
        traffic.send(1000)
        worker.start(f"{step}:2=SIGTERM")
        assert worker.wait() == 0, worker.output()
        assert not {"ERROR", "CRITICAL", "Traceback"} & set(worker.output().split()), worker.output()
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
