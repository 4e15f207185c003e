import pytest

from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, check_exact, check_published, second, wait_applied


def test_a_second_worker_joins_under_load_and_leaves(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    join_and_leave(settings_on(broker.brokers, worker=Worker()), make_worker)


@pytest.mark.kafka
def test_a_second_worker_with_a_static_id_joins_under_load_and_leaves(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Its partitions wait until its session times out, which the embedded broker never does to a static member."""
    join_and_leave(settings_on(kafka_broker.brokers), make_worker)


def join_and_leave(settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(settings, seed=2)
    first, other = make_worker(settings).ready(), make_worker(second(settings))
    with traffic.flowing(1000):
        other.ready()
        handed_over({first: 1, other: 1})
        assert other.terminate() == 0, other.output()
        handed_over({first: 2})
    wait_applied(settings, first)
    check_exact(settings, traffic.sent)
    check_published(settings)
    assert first.terminate() == 0, first.output()
