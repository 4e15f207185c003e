"""Bags as people read them are those of the plain reference, before and after a roll-up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.bags import sum_pairs
from state.periods import DAY, MS_PER_DAY, Scale, parse_scales
from state.rollup import roll_up
from state.rows import decode_rows, encode_keys, encode_values
from stream.operations.bag_report import period_bags
from tests.plain import PlainEvent, bags

EVENTS = st.lists(
    st.builds(
        PlainEvent,
        user=st.sampled_from([b"ann", b"annabel", "Zoë".encode()]),
        interest=st.integers(0, 3),
        ts_ms=st.integers(-40, 200).map(lambda day: day * MS_PER_DAY + 5),
        weight=st.integers(1, 3),
    ),
    max_size=40,
)


def _stored(events: list[PlainEvent]) -> dict[bytes, bytes]:
    """The day rows that applying these events in this order leaves; an event's seq is its place."""
    rows: dict[bytes, bytes] = {}
    days: dict[tuple[bytes, int], list[tuple[int, PlainEvent]]] = {}
    for seq, event in enumerate(events):
        days.setdefault((event.user, event.ts_ms // MS_PER_DAY), []).append((seq, event))
    one = np.ones(1, np.int64)
    for (user, day), entries in days.items():
        (key,) = encode_keys([user], 0 * one, DAY.code * one, day * one)
        interests = np.array([event.interest for _, event in entries], np.uint32)
        weights = np.array([event.weight for _, event in entries], np.uint32)
        counted = sum_pairs(np.zeros(len(entries), np.int64), interests, weights, 1)
        (value,) = encode_values(entries[-1][0] * one, entries[-1][1].ts_ms * one, counted)
        rows[key] = value
    return rows


def _rolled_up(rows: dict[bytes, bytes], scales: str) -> dict[bytes, bytes]:
    keys = sorted(rows)
    changed = dict(rows)
    for key, value in roll_up(*decode_rows(keys, [rows[key] for key in keys]), parse_scales(scales)):
        if value is None:
            del changed[key]
        else:
            changed[key] = value
    return changed


@given(events=EVENTS, scales=st.sampled_from(["day", "day,month", "day,week,month,year"]), rolled=st.booleans())
def test_the_report_is_the_plain_count_of_the_events(events: list[PlainEvent], scales: str, rolled: bool) -> None:
    parsed = parse_scales(scales)
    rows = _rolled_up(_stored(events), scales) if rolled else _stored(events)
    keys = sorted(rows)
    found = list(period_bags(*decode_rows(keys, [rows[key] for key in keys]), parsed))
    expected = {(user.decode(), *rest): dict(counts) for (user, *rest), counts in bags(events, parsed).items()}
    assert {(bag.user_id, bag.scale, bag.period): bag.interests for bag in found} == expected
    order = [scale.name for scale in parsed]
    places = [(bag.user_id.encode(), order.index(bag.scale)) for bag in found]
    assert places == sorted(places)
    for bag in found:
        seqs = [
            seq
            for seq, event in enumerate(events)
            if event.user.decode() == bag.user_id and bag.period == _label(parsed[order.index(bag.scale)], event.ts_ms)
        ]
        assert bag.seq == max(seqs), "the newest event that entered the bag"


def _label(scale: Scale, ts_ms: int) -> str:
    return scale.label(int(scale.of_day(np.array([ts_ms // MS_PER_DAY]))[0]))


def test_nobody_has_no_bags() -> None:
    assert list(period_bags(*decode_rows([], []), parse_scales("day,month"))) == []
