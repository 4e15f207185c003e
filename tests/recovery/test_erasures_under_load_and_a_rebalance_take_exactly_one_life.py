import pytest

from stream.settings import Settings, Worker
from tests.brokers import Broker
from tests.erasures import check_exact_without, erased
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, second, wait_applied


@pytest.mark.slow
def test_erasures_under_load_and_a_rebalance_take_exactly_one_life(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    erase_while_one_joins_and_leaves(settings_on(broker.brokers, worker=Worker()), make_worker)


@pytest.mark.slow
@pytest.mark.kafka
def test_erasures_under_load_and_a_rebalance_of_static_members_take_exactly_one_life(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Who leaves is missed once its session times out, which the embedded broker never does to a static member."""
    erase_while_one_joins_and_leaves(settings_on(kafka_broker.brokers), make_worker)


def erase_while_one_joins_and_leaves(settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(settings, seed=65)
    first, other = make_worker(settings).ready(), make_worker(second(settings))
    receipts = []
    with traffic.flowing(800):
        # The users who do most, again and again: while a worker joins, while two share, while one leaves.
        receipts.append(erased(settings, "user-0"))
        other.start()
        receipts += [erased(settings, user) for user in ("user-0", "user-1", "user-2")]
        handed_over({first: 1, other: 1})
        receipts.append(erased(settings, "user-1"))
        assert other.terminate() == 0
        receipts += [erased(settings, user) for user in ("user-2", "user-0")]
    wait_applied(settings, first)
    assert all(receipt.removed.rows for receipt in receipts)
    check_exact_without(settings, receipts)
