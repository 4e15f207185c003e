"""What the time of a Kafka record is worth. Freshness is measured from it, and a producer may write any into it.

Records of the oldest format have none, and clients write -1 or 0 for none; whoever fills in a history often writes the
time of the event. Such a time says nothing of how long the event has waited here.
"""

from typing import Final, NamedTuple

import numpy as np

from state.periods import Int64
from stream.outcomes import RecordTime
from stream.records.arrival import Arrival

# No producer that is left as it is delivers a record later than this after its time (delivery.timeout.ms).
DELIVERY_MS_MAX: Final = 120_000
# Where it is not known since when a record stands in the topic, no longer than Kafka's default retention.
BACKLOG_MS_MAX: Final = 7 * 86_400_000
# Clocks may differ by so much.
AHEAD_MS_MAX: Final = 60_000


class Waiting(NamedTuple):
    """Since when events have waited, int64[n]: their record's time or, negative, when we read them; and what times are.

    `Mark.first_ms` says what the sign is for.
    """

    since_ms: Int64
    kinds: dict[RecordTime, int]


def waiting(record_ms: Int64, arrival: Arrival, now_ms: int) -> Waiting:
    """How long each event of a batch has waited, as far as its record's time can be that of its arrival."""
    known_ms = now_ms - BACKLOG_MS_MAX if arrival.after_ms is None else arrival.after_ms
    oldest_ms = min(known_ms, now_ms) - DELIVERY_MS_MAX
    none, ahead = record_ms <= 0, record_ms > now_ms + AHEAD_MS_MAX
    backdated = ~none & (record_ms < oldest_ms)
    kinds = {
        kind: int(np.count_nonzero(chosen))
        for kind, chosen in ((RecordTime.NONE, none), (RecordTime.BACKDATED, backdated), (RecordTime.AHEAD, ahead))
    }
    kinds[RecordTime.ARRIVAL] = len(record_ms) - sum(kinds.values())
    return Waiting(np.where(none | backdated | ahead, -now_ms, record_ms), kinds)
