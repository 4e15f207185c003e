import numpy as np
import pytest

from stream.outcomes import RecordTime
from stream.records.arrival import NO_TIME_MS, UNKNOWN, Arrival
from stream.records.record_times import AHEAD_MS_MAX, BACKLOG_MS_MAX, DELIVERY_MS_MAX, waiting

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("record_ms", "arrival", "kind"),
    [
        (NOW_MS - 5, UNKNOWN, RecordTime.ARRIVAL),
        (NO_TIME_MS, UNKNOWN, RecordTime.NONE),
        (0, UNKNOWN, RecordTime.NONE),
        (NOW_MS - BACKLOG_MS_MAX, UNKNOWN, RecordTime.ARRIVAL),
        (NOW_MS - 2 * BACKLOG_MS_MAX, UNKNOWN, RecordTime.BACKDATED),
        (NOW_MS - HOUR_MS, Arrival(after_ms=NOW_MS - 2 * HOUR_MS), RecordTime.ARRIVAL),
        (NOW_MS - HOUR_MS, Arrival(after_ms=NOW_MS - 1000), RecordTime.BACKDATED),
        (NOW_MS - 1000 - DELIVERY_MS_MAX, Arrival(after_ms=NOW_MS - 1000), RecordTime.ARRIVAL),
        (NOW_MS + AHEAD_MS_MAX, Arrival(after_ms=NOW_MS), RecordTime.ARRIVAL),
        (NOW_MS + AHEAD_MS_MAX + 1, Arrival(after_ms=NOW_MS), RecordTime.AHEAD),
    ],
)
def test_only_what_can_be_the_time_of_an_arrival_says_how_long_an_event_has_waited(
    record_ms: int, arrival: Arrival, kind: RecordTime
) -> None:
    waited = waiting(np.array([record_ms, NOW_MS]), arrival, NOW_MS)
    assert waited.since_ms.tolist() == [record_ms if kind is RecordTime.ARRIVAL else -NOW_MS, NOW_MS]
    assert {each: n for each, n in waited.kinds.items() if n} == (
        {kind: 2} if kind is RecordTime.ARRIVAL else {kind: 1, RecordTime.ARRIVAL: 1}
    )
