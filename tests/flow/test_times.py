"""What times of events and of their records do, without a broker."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream.outcomes import Reason, RecordTime
from stream.records.dead_letters import PREFIX
from stream.records.outgoing import Outgoing
from stream.settings import Settings, Topics
from stream.testing import Harness, tiny_bundle

NOW_MS = int(time.time() * 1000)
DAY_MS = 86_400_000


@pytest.fixture
def clock_ms() -> list[int]:
    """What the worker's clock shows."""
    return [NOW_MS]


@pytest.fixture
def harness(clock_ms: list[int]) -> Iterator[Harness]:
    with Harness(tiny_bundle(), Settings(topics=Topics(partitions=1)), lambda: clock_ms[0]) as made:
        yield made


def event(user: str, ts: int = NOW_MS, record_ms: int = NOW_MS) -> tuple[Outgoing, int]:
    value = json.dumps({"user_id": user, "item_id": "item-3", "ts": ts}).encode()
    return Outgoing(user.encode(), value), record_ms


def send(harness: Harness, *events: tuple[Outgoing, int]) -> None:
    for sent, record_ms in events:
        harness.topics.append(harness.settings.topics.events, 0, sent, record_ms)
    harness.apply()


def sample(harness: Harness, name: str, **labels: str) -> Any:
    return harness.metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("record_ms", "kind"),
    [
        (-1, RecordTime.NONE),
        (0, RecordTime.NONE),
        (NOW_MS - 1_000 * DAY_MS, RecordTime.BACKDATED),
        (NOW_MS + 3 * DAY_MS, RecordTime.AHEAD),
    ],
    ids=["none was given", "zero", "backdated", "ahead"],
)
def test_what_is_no_time_of_an_arrival_is_no_sample_of_freshness(
    harness: Harness, record_ms: int, kind: RecordTime
) -> None:
    send(harness, event("ann", record_ms=record_ms), event("bob", record_ms=NOW_MS - 2_000))
    harness.encode()
    assert harness.embedding("ann") is not None
    assert sample(harness, "lurm_freshness_seconds_count") == 1
    assert sample(harness, "lurm_freshness_seconds_sum") == pytest.approx(2.0)
    counts = {each: sample(harness, "lurm_record_times_total", kind=each.value) for each in RecordTime}
    assert counts == dict.fromkeys(RecordTime, 0) | {kind: 1, RecordTime.ARRIVAL: 1}


def test_who_waits_from_an_unknown_time_on_waits_from_when_the_event_was_read(harness: Harness) -> None:
    send(harness, event("ann", record_ms=-1))
    mark = harness.partitions[0].store.marks.oldest
    assert mark is not None
    assert mark.first_ms == -NOW_MS


def test_seconds_are_refused_with_a_hint_and_times_before_2000_are_counted_apart(harness: Harness) -> None:
    send(
        harness, event("ann", NOW_MS // 1000), event("ann", NOW_MS * 1000), event("ann", 900_000_000_000), event("bob")
    )
    letters = [dict(letter.headers) for letter in harness.dead_letters]
    said = {
        (each[f"{PREFIX}reason"].decode(), each[f"{PREFIX}message"].decode().partition("; ")[2]) for each in letters
    }
    assert said == {
        (Reason.WRONG_UNIT.value, "that is seconds, milliseconds are wanted"),
        (Reason.FUTURE.value, "are these micro- or nanoseconds? milliseconds are wanted"),
    }
    assert sample(harness, "lurm_events_before_2000_total") == 1
    assert harness.ledger.applied == 2


def test_a_clock_that_is_days_behind_rejects_nothing_once_a_broker_told_the_time(
    harness: Harness, clock_ms: list[int]
) -> None:
    clock_ms[0] = NOW_MS - 40 * DAY_MS
    send(harness, event("ann"))
    assert harness.ledger.rejected == 1
    harness.shared.clock.broker_wrote(NOW_MS)
    send(harness, event("ann"), event("bob", NOW_MS + 3 * DAY_MS))
    assert (harness.ledger.applied, harness.ledger.rejected) == (1, 2)
    assert harness.dead_letters[-1].timestamp >= NOW_MS
