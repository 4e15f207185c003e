import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.settings import Kafka
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import FAST, kafka_home
from tests.conftest import NO_KAFKA
from tests.recovery.runs import check_disk, halted_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    with ApacheKafka(home, tmp_path / "broker") as broker:
        yield broker
        broker.kill()


@pytest.mark.slow
@pytest.mark.kafka
def test_a_commit_that_meets_a_dead_broker_is_retried(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker forgets open transactions when it ends."""
    kafka = Kafka(brokers=own_kafka.brokers, **FAST | {"transaction_timeout_s": 60.0, "poll_events": 100})
    settings = settings_on(own_kafka.brokers, kafka=kafka)
    traffic = Traffic(settings, seed=41)
    traffic.send(3000)
    worker = make_worker(settings)
    for step in ("batch.offset_sent", "encode.sent"):
        halted_at(worker, step, passage=2)
        own_kafka.kill()
        worker.signal(signal.SIGCONT)
        time.sleep(2)
        own_kafka.start()
        # No other worker helps, and this one must not end.
        wait_applied(settings, worker)
        check_published(settings)
        assert worker.terminate() == 0, worker.output()
        traffic.send(1000)
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
