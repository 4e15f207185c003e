from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.settings import Kafka
from stream.trial.embedded_broker import HOST, ApacheKafka, free_ports
from tests.brokers import FAST, kafka_home
from tests.conftest import NO_KAFKA
from tests.recovery.lossy_proxy import LossyProxy, Request
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[LossyProxy]:
    """Every client of the broker behind it is told the proxy's address."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    port = free_ports(1)[0]
    broker = ApacheKafka(home, tmp_path / "broker", properties={"advertised.listeners": f"PLAINTEXT://{HOST}:{port}"})
    with LossyProxy(port, broker.port, period=5) as proxy, broker:
        yield proxy
        broker.kill()


@pytest.mark.kafka
def test_a_transaction_whose_answers_are_lost_is_asked_again(
    proxy: LossyProxy, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker cannot stand behind another address."""
    settings = settings_on(proxy.address, kafka=Kafka(brokers=proxy.address, **FAST | {"poll_events": 100}))
    traffic = Traffic(settings, seed=40)
    worker = make_worker(settings).ready()
    proxy.losing = True
    traffic.send(5000)
    wait_applied(settings, worker)
    proxy.losing = False
    print("lost:", proxy.lost)
    assert set(proxy.lost) == set(Request)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
