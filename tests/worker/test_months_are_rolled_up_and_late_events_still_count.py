import numpy as np

from state.history import before_window
from state.periods import MS_PER_DAY
from state.rows import RECORD_KEY, decode_rows
from stream.settings import Kafka, Settings
from tests.brokers import FAST, Broker
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import FIRST_DAY, Changelog, Traffic, check_exact, check_published, wait_applied, wait_until

USERS = [b"user-%d" % i for i in range(30)]


def month(number: int, seed: int) -> list[PlainEvent]:
    """Events of everybody within 30 days; four of these cross three turns of a calendar month and more."""
    rng = np.random.default_rng(seed)
    first = FIRST_DAY + 30 * number
    return [
        PlainEvent(user, int(rng.integers(20)), int((first + rng.integers(30)) * MS_PER_DAY))
        for user in USERS
        for _ in range(10)
    ]


def test_months_are_rolled_up_and_late_events_still_count(settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(settings, seed=8)
    worker = make_worker(settings).ready()
    for number, seed in [(0, 0), (1, 1), (2, 2), (3, 3), (0, 4), (4, 5), (1, 6)]:
        traffic.send_these(month(number, seed))
        wait_applied(settings, worker)
        check_exact(settings, traffic.sent)
    wait_until(lambda: n_days_before_the_window(settings) == 0)
    changelog = check_exact(settings, traffic.sent)
    assert worker.metric("lurm_rolled_up_rows_total") == sum(each.value is None for each in changelog.records) > 0
    check_published(settings)


def test_long_lives_are_rolled_up_in_several_transactions(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """A transaction of all their days would hold up the batches behind it."""
    kafka = Kafka(brokers=broker.brokers, **FAST | {"poll_events": 50_000})
    settings = settings_on(broker.brokers, kafka=kafka, partitions=1)
    n_days = 10 * 365
    traffic, worker = Traffic(settings, seed=9), make_worker(settings)
    traffic.send_these(
        [PlainEvent(user, 1, (FIRST_DAY - day) * MS_PER_DAY) for user in USERS[:8] for day in range(n_days)]
    )
    worker.ready()
    wait_applied(settings, worker)
    # Two months at most stay days.
    wait_until(lambda: Changelog(settings).n_deleted >= 8 * (n_days - 62), explain=worker.output)
    sizes = [0]
    for record in check_exact(settings, traffic.sent).records:
        sizes[-1] += record.value is None
        if record.key == RECORD_KEY:
            sizes.append(0)
    assert sum(sizes) > 7 * n_days, sizes
    # So many rows are enough, and those of the user with whom they are.
    assert max(sizes) <= 20_000 + n_days, sizes
    check_published(settings)


def n_days_before_the_window(settings: Settings) -> int:
    rows = Changelog(settings).rows
    users, decoded = decode_rows(sorted(rows), [rows[key] for key in sorted(rows)])
    return len(before_window(decoded, len(users)))
