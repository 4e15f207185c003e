import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Kafka
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import FAST, kafka_home
from tests.conftest import NO_KAFKA
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, wait_applied, wait_until


@pytest.fixture
def three_brokers(tmp_path: Path) -> Iterator[list[ApacheKafka]]:
    """Every topic has three replicas, and a write needs two."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    nodes = ApacheKafka.cluster(home, tmp_path / "cluster", 3)
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready(120)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.kafka
def test_the_death_of_one_broker_of_three_under_load_costs_no_count(
    three_brokers: list[ApacheKafka], settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    seed = random.randrange(10**6)
    brokers = ",".join(node.brokers for node in three_brokers)
    settings = settings_on(brokers, kafka=Kafka(brokers=brokers, **FAST | {"request_timeout_s": 20.0}))
    traffic = Traffic(settings, seed)
    worker = make_worker(settings).ready()
    with traffic.flowing(300):
        time.sleep(random.Random(seed).random())
        random.Random(seed).choice(three_brokers).kill()
        before = n_applied(worker)
        wait_until(lambda: worker.returncode is not None or n_applied(worker) > before + 500, 120, worker.output)
        # A transaction that lost its coordinator may be left in doubt: then a supervisor starts the worker again.
        if worker.returncode is not None:
            assert worker.returncode == EXIT_FATAL, worker.output()
            worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def n_applied(worker: WorkerProcess) -> float:
    return worker.metric("lurm_events_total", outcome="applied")
