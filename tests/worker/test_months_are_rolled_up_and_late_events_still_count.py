import numpy as np

from state.history import before_window
from state.periods import MS_PER_DAY
from state.rows import decode_rows
from stream.settings import Settings
from tests.plain import PlainEvent
from tests.worker.conftest import MakeWorker
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


def test_months_are_rolled_up_and_late_events_still_count(one_settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(one_settings, seed=8)
    worker = make_worker(one_settings).ready()
    for number, seed in [(0, 0), (1, 1), (2, 2), (3, 3), (0, 4), (4, 5), (1, 6)]:
        traffic.send_these(month(number, seed))
        wait_applied(one_settings, worker)
        check_exact(one_settings, traffic.sent)
    wait_until(lambda: n_days_before_the_window(one_settings) == 0)
    changelog = check_exact(one_settings, traffic.sent)
    assert worker.metric("lurm_rolled_up_rows_total") == sum(each.value is None for each in changelog.records) > 0
    check_published(one_settings)


def n_days_before_the_window(settings: Settings) -> int:
    rows = Changelog(settings).rows
    users, decoded = decode_rows(sorted(rows), [rows[key] for key in sorted(rows)])
    return len(before_window(decoded, len(users)))
