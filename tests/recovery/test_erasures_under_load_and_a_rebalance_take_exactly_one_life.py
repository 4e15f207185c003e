from stream.settings import Settings
from tests.erasures import check_exact_without, erased
from tests.worker.conftest import MakeWorker, handed_over
from tests.workers import Traffic, second, wait_applied


def test_erasures_under_load_and_a_rebalance_take_exactly_one_life(
    one_settings: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(one_settings, seed=65)
    first, other = make_worker(one_settings).ready(), make_worker(second(one_settings))
    receipts = []
    with traffic.flowing(800):
        # The users who do most, again and again: while a worker joins, while two share, while one leaves.
        receipts.append(erased(one_settings, "user-0"))
        other.start()
        receipts += [erased(one_settings, user) for user in ("user-0", "user-1", "user-2")]
        handed_over({first: 1, other: 1})
        receipts.append(erased(one_settings, "user-1"))
        assert other.terminate() == 0
        receipts += [erased(one_settings, user) for user in ("user-2", "user-0")]
    wait_applied(one_settings, first)
    assert all(receipt.removed.rows for receipt in receipts)
    check_exact_without(one_settings, receipts)
