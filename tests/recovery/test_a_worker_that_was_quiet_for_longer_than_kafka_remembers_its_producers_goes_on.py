import time
from pathlib import Path

import pytest

from stream.settings import Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import kafka_home
from tests.conftest import NO_KAFKA
from tests.cut_logs import start
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied

# Kafka's own are 7 days, an hour, a day and ten minutes.
FORGETFUL = {
    "transactional.id.expiration.ms": "8000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "1000",
    "producer.id.expiration.ms": "8000",
    "producer.id.expiration.check.interval.ms": "1000",
}
QUIET_S = 20


@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_that_was_quiet_for_longer_than_kafka_remembers_its_producers_goes_on(
    tmp_path: Path, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    with start(ApacheKafka(home, tmp_path / "broker", properties=FORGETFUL)) as kafka:
        settings = settings_on(kafka.brokers, worker=Worker())
        traffic, worker = Traffic(settings, seed=81), make_worker(settings).ready()
        for _ in range(2):
            traffic.send(200)
            wait_applied(settings, worker)
            check_published(settings)
            time.sleep(QUIET_S)
        traffic.send(200)
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
        check_published(settings)
        assert worker.returncode is None, worker.output()
