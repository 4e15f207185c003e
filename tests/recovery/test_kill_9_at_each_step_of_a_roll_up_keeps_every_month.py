import numpy as np
import pytest

from state.history import before_window
from state.periods import MS_PER_DAY
from state.rows import decode_rows
from stream.failpoints import STEPS
from stream.settings import Settings
from tests.brokers import Broker
from tests.plain import PlainEvent
from tests.recovery.runs import check_disk, killed_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import (
    FIRST_DAY,
    Changelog,
    Traffic,
    check_exact,
    check_published,
    wait_applied,
    wait_until,
)

STEPS_OF_A_ROLL_UP = [step for step in STEPS if step.startswith("roll_up.")]
USERS = [b"user-%d" % i for i in range(30)]


def month(number: int) -> list[PlainEvent]:
    """Events of everybody within 30 days."""
    rng = np.random.default_rng(number)
    days = FIRST_DAY + 30 * number + rng.integers(30, size=(len(USERS), 5))
    return [
        PlainEvent(user, int(rng.integers(20)), int(day) * MS_PER_DAY)
        for user, own in zip(USERS, days, strict=True)
        for day in own
    ]


@pytest.mark.kafka
def test_kill_9_at_each_step_of_a_roll_up_keeps_every_month(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """Read from behind an aborted transaction, the embedded broker hides the committed ones that follow."""
    settings = settings_on(kafka_broker.brokers)
    traffic = Traffic(settings, seed=33)
    worker = make_worker(settings)
    traffic.send_these([*month(0), *month(4)])
    for number, step in enumerate(STEPS_OF_A_ROLL_UP):
        # Late events, so that there is something to roll up again, into months that have a row or have none.
        traffic.send_these(month(number % 2))
        killed_at(worker, step, passage=1 + number % 2)
    traffic.send_these([*month(0), *month(1)])
    worker.ready()
    wait_applied(settings, worker)
    wait_until(lambda: days_before_the_window(settings) == 0)
    assert check_exact(settings, traffic.sent).n_deleted > 0
    check_published(settings)
    check_disk(worker)


def days_before_the_window(settings: Settings) -> int:
    rows = Changelog(settings).rows
    users, decoded = decode_rows(sorted(rows), [rows[key] for key in sorted(rows)])
    return len(before_window(decoded, len(users)))
