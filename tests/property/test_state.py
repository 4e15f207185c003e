"""Bags, rows and roll-up against the plain reference."""

import datetime
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.bags import COUNT_MAX, Bags, concat, sum_bags, sum_pairs
from state.errors import FormatUnknown, StoreCorrupt
from state.history import Rows, resolve
from state.periods import SCALE_BY_CODE, SCALES, Scale, parse_scales
from state.rollup import roll_up, users_to_roll_up
from state.rows import (
    decode_header,
    decode_keys,
    decode_rows,
    decode_values,
    encode_keys,
    encode_values,
    epoch_after,
    seq_of,
    sum_values,
)
from tests.plain import Bags as PlainBags
from tests.plain import PlainEvent
from tests.plain import bags as plain_bags

u32 = st.integers(0, 2**32 - 1)
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6) | u32, st.integers(1, 1000)), max_size=60)
heads = st.lists(
    st.tuples(st.integers(0, 2**62), st.integers(-(2**54), 2**54), st.just(0) | st.integers(0, 2**62 - 1)),
    min_size=5,
    max_size=5,
)
user_ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).map(str.encode)
EPOCH = datetime.date(1970, 1, 1).toordinal()
FIRST, LAST = datetime.date.min.toordinal() - EPOCH, datetime.date.max.toordinal() - EPOCH
# Close together, on both sides of months, years, leap days, 1970 and the ends of the calendar, and anywhere.
edges = [datetime.date(*ymd).toordinal() - EPOCH for ymd in [(1970, 1, 1), (1997, 6, 1), (2000, 3, 1), (2100, 3, 1)]]
days = (
    st.integers(10_000, 10_200)
    | st.builds(int.__add__, st.sampled_from(edges), st.integers(-2, 62))
    | st.sampled_from([FIRST, FIRST + 31, LAST - 62, LAST])
    | st.integers(FIRST, LAST)
)
events = st.lists(
    st.builds(
        PlainEvent,
        st.sampled_from([b"ann", b"bob", b"an"]),
        st.integers(0, 5),
        st.builds(lambda day, ms: day * 86_400_000 + ms, days, st.sampled_from([0, 5, 86_399_999])),
        st.integers(1, 3),
    ),
    max_size=60,
)
coarse = st.lists(st.sampled_from(["week", "month", "quarter", "year"]), unique=True)
scale_sets = coarse.map(lambda names: parse_scales(",".join(["day", *names])))


def make_bags(triples: list[tuple[int, int, int]], n: int = 5) -> Bags:
    owner, interest, count = (np.array(column) for column in zip(*triples, strict=True)) if triples else ([], [], [])
    return sum_pairs(np.array(owner, np.int64), np.array(interest, np.uint32), np.array(count, np.uint32), n)


def as_dicts(bags: Bags) -> list[dict[int, int]]:
    bounds = bags.offsets.tolist()
    flat = list(zip(bags.interests.tolist(), bags.counts.tolist(), strict=True))
    return [dict(flat[a:b]) for a, b in itertools.pairwise(bounds)]


@given(pairs)
def test_summing_pairs_is_counting(triples: list[tuple[int, int, int]]) -> None:
    expected: list[Counter[int]] = [Counter() for _ in range(5)]
    for owner, interest, count in triples:
        expected[owner][interest] += count
    bags = make_bags(triples)
    assert as_dicts(bags) == expected
    for bag in as_dicts(bags):
        assert list(bag) == sorted(bag)


@given(pairs, pairs, st.lists(st.integers(0, 4), min_size=10, max_size=10))
def test_summing_bags_is_summing_their_pairs(first: list, second: list, owners: list[int]) -> None:
    both = concat([make_bags(first), make_bags(second)])
    expected: list[Counter[int]] = [Counter() for _ in range(5)]
    for owner, bag in zip(owners, as_dicts(both), strict=True):
        expected[owner].update(bag)
    assert as_dicts(sum_bags(np.array(owners), both, 5)) == expected


def test_a_count_stays_at_its_largest_value() -> None:
    bags = make_bags([(0, 7, COUNT_MAX), (0, 7, 5)])
    assert as_dicts(bags)[0] == {7: COUNT_MAX}


@given(pairs, heads)
def test_a_rows_value_survives_its_bytes(triples: list, heads: list[tuple[int, int, int]]) -> None:
    columns = seq, time, active = [np.array(column) for column in zip(*heads, strict=True)]
    values = encode_values(seq, time, make_bags(triples), active)
    seq, time, bags, active = decode_values(values)
    for read, written in zip((seq, time, active), columns, strict=True):
        assert read.tolist() == written.tolist()
    for read, written in zip(decode_header(values), columns[:2], strict=True):
        assert read.tolist() == written.tolist()
    assert as_dicts(bags) == as_dicts(make_bags(triples))


@given(pairs, pairs, heads, heads)
def test_the_sum_of_rows_counts_what_both_count_and_is_as_new_as_the_newer(
    some: list, others: list, some_heads: list[tuple[int, int, int]], other_heads: list[tuple[int, int, int]]
) -> None:
    def values(triples: list, heads: list[tuple[int, int, int]]) -> list[bytes]:
        seq, time, active = (np.array(column) for column in zip(*heads, strict=True))
        return encode_values(seq, time, make_bags(triples), active)

    seq, time, bags, active = decode_values(sum_values(values(some, some_heads), values(others, other_heads)))
    heads = list(zip(some_heads, other_heads, strict=True))
    assert seq.tolist() == [max(a[0], b[0]) for a, b in heads]
    assert time.tolist() == [max(a[1], b[1]) for a, b in heads]
    assert active.tolist() == [a[2] | b[2] for a, b in heads]
    assert as_dicts(bags) == as_dicts(make_bags(some + others))


@given(st.lists(st.tuples(user_ids, st.sampled_from(list(SCALES)), st.integers(-(2**31), 2**31 - 1)), max_size=20))
def test_a_rows_key_survives_its_bytes_and_sorts_by_time(rows: list[tuple[bytes, str, int]]) -> None:
    users = [user for user, _, _ in rows]
    codes = np.array([SCALES[name].code for _, name, _ in rows], np.int64)
    periods = np.array([period for _, _, period in rows], np.int64)
    keys = encode_keys(users, np.arange(len(rows)), codes, periods)
    names, user, scale, period = decode_keys(keys)
    read = [(names[u], SCALE_BY_CODE[s].name, p) for u, s, p in zip(user, scale, period, strict=True)]
    assert read == rows
    by_key = [row for _, row in sorted(zip(keys, rows, strict=True))]
    assert by_key == sorted(rows, key=lambda row: (row[0] + b"\0", SCALES[row[1]].code, row[2]))


@given(st.integers(0, 9), st.integers(0, 1 << 43), st.integers(0, 1 << 43), st.integers(0, 1 << 43))
def test_seq_grows_with_the_offset_and_into_the_next_epoch(epoch: int, offset: int, later: int, other: int) -> None:
    """Also where an offset has passed 2^40."""
    assert (seq_of(epoch, offset) < seq_of(epoch, later)) == (offset < later)
    following = epoch_after(epoch, offset)
    assert following > epoch
    assert seq_of(following, other) > seq_of(epoch, offset)


@pytest.mark.parametrize("value", [b"", b"1234567", b"12345678"])
def test_a_value_of_an_impossible_length_is_corrupt(value: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        decode_values([value])


def test_a_value_of_another_version_is_refused() -> None:
    value = bytearray(encode_values(np.array([1]), np.array([2]), Bags.empty(1))[0])
    value[15] += 2
    with pytest.raises(FormatUnknown):
        decode_values([bytes(value)])


def test_a_value_that_ends_before_its_active_days_is_corrupt() -> None:
    value = encode_values(np.array([1]), np.array([2]), Bags.empty(1), np.array([5]))[0]
    with pytest.raises(StoreCorrupt):
        decode_values([value[:-8]])


@pytest.mark.parametrize(
    ("key", "value", "scale", "period", "active"),
    [
        pytest.param(
            "616e6e006480002710",
            "4d01000000000000050000000000800103000000070000000a00000001000000",
            ord("d"), 10_000, 0, id="1: a day",
        ),
        pytest.param(
            "616e6e006d80000149",
            "4d010000000000000500000000008002110000400000000003000000070000000a00000001000000",
            ord("m"), 329, 1 << 30 | 1 << 4 | 1, id="2: a month",
        ),
    ],
)  # fmt: skip
def test_bytes_of_every_format_are_read_for_ever(key: str, value: str, scale: int, period: int, active: int) -> None:
    """What was written once must never change its meaning."""
    users, rows = decode_rows([bytes.fromhex(key)], [bytes.fromhex(value)])
    assert users == [b"ann"]
    assert (rows.scale[0], rows.period[0], rows.seq[0], rows.event_time_ms[0]) == (scale, period, 333, 5)
    assert rows.active.tolist() == [active]
    assert as_dicts(rows.bags) == [{3: 7, 10: 1}]
    assert encode_values(rows.seq, rows.event_time_ms, rows.bags, rows.active) == [bytes.fromhex(value)]


def day_rows(history: list[PlainEvent]) -> dict[bytes, bytes]:
    """The day rows of these events, one event at a time."""
    counted: dict[tuple[bytes, int], Counter[int]] = {}
    for event in history:
        counted.setdefault((event.user, event.ts_ms // 86_400_000), Counter())[event.interest] += event.weight
    stored = {}
    for i, ((user, day), bag) in enumerate(counted.items()):
        key = encode_keys([user], np.array([0]), np.array([ord("d")]), np.array([day]))[0]
        bags = sum_pairs(np.zeros(len(bag), np.int64), np.array(list(bag), np.uint32), np.array(list(bag.values())), 1)
        stored[key] = encode_values(np.array([i]), np.array([day * 86_400_000 + 5]), bags)[0]
    return stored


def active_days(history: list[PlainEvent], scales: tuple[Scale, ...]) -> dict[tuple[bytes, str, str], int]:
    """In how many stretches of days (one day but in quarters and years) of each period there was an event."""
    found: dict[tuple[bytes, str, str], set[int]] = {}
    for user, _, ts_ms, _ in history:
        day = np.array([ts_ms // 86_400_000])
        for scale in scales:
            period = scale.of_day(day)
            stretch = int((day - scale.first_day(period))[0]) // {"quarter": 2, "year": 6}.get(scale.name, 1)
            found.setdefault((user, scale.name, scale.label(int(period[0]))), set()).add(stretch)
    return {period: len(stretches) for period, stretches in found.items()}


def read(stored: dict[bytes, bytes]) -> tuple[list[bytes], Rows]:
    keys = sorted(stored)
    return decode_rows(keys, [stored[key] for key in keys])


def resolved(stored: dict[bytes, bytes], scales: tuple[Scale, ...]) -> tuple[PlainBags, dict]:
    """The bag of every period, and how many of its days were active."""
    users, rows = read(stored)
    found, active = {}, {}
    for name, periods in resolve(rows, scales, len(users)).items():
        columns = zip(periods.user, periods.period, periods.active, as_dicts(periods.bags), strict=True)
        for user, period, bits, bag in columns:
            place = users[user], name, SCALES[name].label(int(period))
            found[place], active[place] = bag, int(bits).bit_count()
    return found, active


def expected(history: list[PlainEvent], scales: tuple[Scale, ...]) -> tuple[PlainBags, dict]:
    bags, active = plain_bags(history, scales), active_days(history, scales)
    return bags, {place: active[place] for place in bags}


@given(events, scale_sets)
def test_stored_rows_mean_the_plain_bags_before_and_after_roll_up(history: list, scales: tuple[Scale, ...]) -> None:
    stored = day_rows(history)
    assert resolved(stored, scales) == expected(history, scales)
    roll_up_now(stored, scales)
    assert resolved(stored, scales) == expected(history, scales)
    users, rows = read(stored)
    assert not len(users_to_roll_up(rows, scales, len(users)))


def merge(stored: dict[bytes, bytes], history: list[PlainEvent]) -> None:
    """Add the day rows of these events."""
    for key, value in day_rows(history).items():
        old = [stored[key]] if key in stored else []
        seq, time, bags, _ = decode_values([*old, value])
        total = sum_bags(np.zeros(len(bags), np.int64), bags, 1)
        stored[key] = encode_values(np.array([seq.max()]), np.array([time.max()]), total)[0]


def roll_up_now(stored: dict[bytes, bytes], scales: tuple[Scale, ...]) -> None:
    users, rows = read(stored)
    for key, value in roll_up(users, rows, scales):
        stored.pop(key) if value is None else stored.update({key: value})


@given(st.lists(st.tuples(events, st.booleans()), max_size=5), scale_sets)
def test_late_events_and_roll_ups_in_any_order_count_every_event_once(steps: list, scales: tuple[Scale, ...]) -> None:
    stored: dict[bytes, bytes] = {}
    sent: list[PlainEvent] = []
    for batch, then_roll_up in steps:
        merge(stored, batch)
        sent += batch
        if then_roll_up:
            roll_up_now(stored, scales)
        assert resolved(stored, scales) == expected(sent, scales)


@given(st.lists(events, min_size=1, max_size=4), scale_sets)
def test_when_days_are_rolled_up_makes_no_difference_to_what_is_stored(
    batches: list, scales: tuple[Scale, ...]
) -> None:
    often: dict[bytes, bytes] = {}
    once: dict[bytes, bytes] = {}
    for batch in batches:
        merge(often, batch)
        merge(once, batch)
        roll_up_now(often, scales)
    roll_up_now(once, scales)
    assert read_bags(often) == read_bags(once)


def read_bags(stored: dict[bytes, bytes]) -> dict[bytes, tuple[dict[int, int], int]]:
    """The bag and the active days of every row."""
    keys = sorted(stored)
    _, _, bags, active = decode_values([stored[key] for key in keys])
    return dict(zip(keys, zip(as_dicts(bags), active.tolist(), strict=True), strict=True))


@pytest.mark.parametrize("names", ["", "month", "week,month", "day,day", "day,hour"])
def test_scales_that_no_event_could_be_counted_in_are_refused(names: str) -> None:
    with pytest.raises(ValueError, match=r"day|twice|unknown"):
        parse_scales(names)
