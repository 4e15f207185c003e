"""Whatever stands in ``ts``: what the calendar can name is counted in its period, all else is rejected."""

import json
from types import SimpleNamespace

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from lurm_model.interests.codebook import Codebook
from state.periods import SCALES, TS_MS_MAX, TS_MS_MIN
from state.rows import decode_rows
from stream.operations.bag_report import period_bags
from stream.outcomes import Reason
from stream.partition.ingest import update_rows
from stream.records.events import EventBatch, EventDecoder, Limits
from tests.plain import PlainEvent, bags

VECTORS = np.eye(2, dtype=np.float32)
CODEBOOK = Codebook({"item-0": 0, "item-1": 1}, VECTORS, np.ones(3, np.float32), {}, VECTORS[:0])
FUTURE_MS, AGE_MS = 86_400_000, 365 * 86_400_000
ALL_SCALES = tuple(SCALES.values())
EDGES = [0, TS_MS_MIN, TS_MS_MAX, 2**31, 2**53, 2**62, 2**63, 2**64]
stamps = st.builds(int.__add__, st.sampled_from(EDGES), st.integers(-2, 2)) | st.integers(-(2**66), 2**66)
stamps |= st.integers(TS_MS_MIN, TS_MS_MAX)


def decode(stamps: list[int], now_ms: int, age_ms_max: int) -> EventBatch:
    decoder = EventDecoder(CODEBOOK, {}, Limits(1000, FUTURE_MS, age_ms_max))
    values = [json.dumps({"user_id": "ann", "item_id": "item-1", "ts": ts}).encode() for ts in stamps]
    records = [
        SimpleNamespace(offset=i, timestamp=0, key=b"ann", value=value, headers=()) for i, value in enumerate(values)
    ]
    return decoder.decode(records, now_ms)


def reason_of(ts: int, now_ms: int, age_ms_max: int) -> Reason | None:
    if abs(ts) > 2**62:
        return Reason.WRONG_TYPE
    # Seconds of the years 2000 to 2100.
    if 946_684_800 <= ts < 4_102_444_800:
        return Reason.WRONG_UNIT
    if ts > min(now_ms + FUTURE_MS, TS_MS_MAX):
        return Reason.FUTURE
    if ts < (max(now_ms - age_ms_max, TS_MS_MIN) if age_ms_max else TS_MS_MIN):
        return Reason.TOO_OLD
    return None


@given(st.lists(stamps, max_size=20), st.integers(0, TS_MS_MAX), st.sampled_from([0, AGE_MS]))
@example([sign * edge + d for edge in EDGES for d in (-1, 0, 1) for sign in (-1, 1)], TS_MS_MAX, 0)
@example([sign * edge + d for edge in EDGES for d in (-1, 0, 1) for sign in (-1, 1)], 0, AGE_MS)
def test_every_time_stamp_is_counted_in_its_periods_or_rejected_with_its_reason(
    stamps: list[int], now_ms: int, age_ms_max: int
) -> None:
    batch = decode(stamps, now_ms, age_ms_max)
    expected = {i: reason for i, ts in enumerate(stamps) if (reason := reason_of(ts, now_ms, age_ms_max))}
    assert {each.record.offset: each.reason for each in batch.rejected} == expected
    update = update_rows(batch, 0, SimpleNamespace(get=lambda keys: [None] * len(keys)))
    stored = dict(zip(update.keys, update.values, strict=True))
    users, rows = decode_rows(sorted(stored), [stored[key] for key in sorted(stored)])
    found = {(b"ann", bag.scale, bag.period): bag.interests for bag in period_bags(users, rows, ALL_SCALES)}
    accepted = [PlainEvent(b"ann", 1, ts) for i, ts in enumerate(stamps) if i not in expected]
    assert found == bags(accepted, ALL_SCALES)
    assert rows.event_time_ms.max(initial=-(2**63)) == max((event.ts_ms for event in accepted), default=-(2**63))
