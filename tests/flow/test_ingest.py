"""The batch core on a real store, without a broker: any batching of any events gives the plain counts."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lurm_model.interests.codebook import Codebook
from state.history import resolve
from state.options import StoreOptions, StoreResources
from state.periods import MS_PER_DAY, SCALES, TS_MS_MIN, Scale, parse_scales
from state.record import Ledger, PartitionRecord
from state.rows import seq_of
from state.store import BagStore, Changes
from stream.outcomes import Reason
from stream.partition.ingest import update_rows
from stream.records.events import _SECONDS, EventDecoder, Limits
from stream.settings import Events
from tests.plain import PlainEvent
from tests.plain import bags as plain_bags

NOW_MS = 1_700_000_000_000
LIMITS = Limits(value_bytes_max=1000, future_ms_max=86_400_000, age_ms_max=0)
ITEMS = {f"item-{i}": i for i in range(5)}


def codebook() -> Codebook:
    vectors = np.eye(5, dtype=np.float32)
    return Codebook(ITEMS, vectors, np.ones(6, np.float32), {f"colour={i}": i for i in range(5)}, vectors)


def decoder(weights: dict[str, int] | None = None, limits: Limits = LIMITS) -> EventDecoder:
    return EventDecoder(codebook(), weights or {}, limits)


def record(offset: int, value: Any, key: bytes | None = b"ann") -> Any:
    raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    return SimpleNamespace(offset=offset, timestamp=NOW_MS + offset, key=key, value=raw, headers=())


def event(**changes: Any) -> dict[str, Any]:
    return {"user_id": "ann", "item_id": "item-1", "ts": NOW_MS} | changes


GOOD = [
    event(),
    event(ts=-1),
    event(item_id="item-4", unknown_field={"deep": [1]}),
    event(item_id="never seen"),
    event(type="click", attributes={"colour": "2", "tags": ["a", "b"]}),
]
BAD = {
    b"": Reason.NOT_JSON,
    b"{": Reason.NOT_JSON,
    b"\xff\xfe": Reason.NOT_JSON,
    b"[]": Reason.WRONG_TYPE,
    b"null": Reason.WRONG_TYPE,
    b'{"user_id":"ann","item_id":"i"}': Reason.MISSING_FIELD,
    b'{"user_id":"ann","item_id":"i","ts":"now"}': Reason.WRONG_TYPE,
    b'{"user_id":"ann","item_id":"i","ts":1.5}': Reason.WRONG_TYPE,
    b'{"user_id":"ann","item_id":"i","ts":99999999999999999999}': Reason.WRONG_TYPE,
    b'{"user_id":null,"item_id":"i","ts":1}': Reason.WRONG_TYPE,
    b'{"user_id":"ann","item_id":"","ts":1}': Reason.WRONG_TYPE,
    b'{"user_id":"ann","item_id":"i","ts":1,"attributes":{"a":1}}': Reason.WRONG_TYPE,
    b'{"user_id":"bob","item_id":"i","ts":1}': Reason.KEY_MISMATCH,
    b'{"user_id":"ann","item_id":"i","ts":1}\n{"user_id":"ann","item_id":"i","ts":1}': Reason.NOT_JSON,
    json.dumps(event(item_id="x" * 900)).encode(): Reason.WRONG_TYPE,
    json.dumps(event(note="x" * 1000)).encode(): Reason.TOO_LARGE,
    json.dumps(event(ts=NOW_MS + 86_400_001)).encode(): Reason.FUTURE,
    json.dumps(event(ts=-(2**61))).encode(): Reason.TOO_OLD,
}


def test_what_is_remembered_of_unknown_items_does_not_grow_with_the_length_of_their_attributes() -> None:
    made = decoder(limits=replace(LIMITS, value_bytes_max=65_536))
    tracemalloc.start()
    try:
        for i in range(100):
            made.decode([record(i, event(item_id="never seen", attributes={"note": str(i) * 10_000}))], NOW_MS)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("value", "reason"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_event_is_rejected_with_its_reason_and_its_neighbours_are_not(value: bytes, reason: Reason) -> None:
    records = [record(i, good) for i, good in enumerate(GOOD)]
    records.insert(2, record(100, value))
    batch = decoder().decode(records, NOW_MS)
    assert [(rejection.record.offset, rejection.reason) for rejection in batch.rejected] == [(100, reason)]
    assert batch.offset.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key", [None, b"", b"bob", b"ann\0"])
def test_an_event_under_a_key_that_is_not_its_user_is_rejected(key: bytes | None) -> None:
    batch = decoder().decode([record(0, event()), record(1, event(), key)], NOW_MS)
    assert [rejection.reason for rejection in batch.rejected] == [Reason.KEY_MISMATCH]
    assert len(batch) == 1


@pytest.mark.parametrize(("user", "reason"), [("a\0b", Reason.WRONG_TYPE), ("é" * 129, Reason.WRONG_TYPE)])
def test_a_user_id_that_no_key_can_hold_is_rejected(user: str, reason: Reason) -> None:
    batch = decoder().decode([record(0, event(user_id=user), user.encode()), record(1, event())], NOW_MS)
    assert [rejection.reason for rejection in batch.rejected] == [reason]


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000])
def test_poison_anywhere_in_a_large_batch_rejects_only_itself(n: int) -> None:
    records = [record(i, b"poison" if i % 300 == 7 else event()) for i in range(n)]
    batch = decoder().decode(records, NOW_MS)
    assert [rejection.record.offset for rejection in batch.rejected] == list(range(7, n, 300))
    assert len(batch) == n - len(batch.rejected)


def test_an_event_that_is_too_old_is_rejected_only_when_asked() -> None:
    old = record(0, event(ts=NOW_MS - 2000))
    assert len(decoder().decode([old], NOW_MS)) == 1
    limited = decoder(limits=Limits(1000, 0, 1000)).decode([old], NOW_MS)
    assert [rejection.reason for rejection in limited.rejected] == [Reason.TOO_OLD]


@pytest.mark.parametrize(
    ("scales", "age_s_max", "n_periods"),
    [("day,month", -1, 601), ("day", -1, 3_653), ("day,month", 0, 24_275), ("day", 10 * 86_400, 10)],
)
def test_a_life_has_no_more_periods_than_are_encoded_quickly_unless_a_setting_allows_it(
    scales: str, age_s_max: int, n_periods: int
) -> None:
    """Every change of an old day encodes the whole life anew, in a thread that all users share."""
    coarsest = parse_scales(scales)[-1]
    first, last = coarsest.of_day(np.array([TS_MS_MIN // MS_PER_DAY, NOW_MS // MS_PER_DAY])).tolist()
    begins_ms = coarsest.first_day(np.arange(first, last + 1)[-30_000:]) * MS_PER_DAY
    # What may be seconds is refused for that.
    begins_ms = begins_ms[(begins_ms < _SECONDS[0]) | (begins_ms >= _SECONDS[1])]
    made = decoder(limits=Limits.of(Events(age_s_max=age_s_max), parse_scales(scales)))
    batch = made.decode([record(i, event(ts=ts)) for i, ts in enumerate(begins_ms.tolist())], NOW_MS)
    assert abs(len(batch) - n_periods) <= 1
    # January and February 1970 are what seconds of today look like.
    aged = [each for each in batch.rejected if each.reason is not Reason.WRONG_UNIT]
    assert all(each.reason is Reason.TOO_OLD and "events.age_s_max" in each.message for each in aged)


def test_weights_count_by_type_and_default_to_one() -> None:
    records = [record(i, event(type=kind)) for i, kind in enumerate(["buy", "view", None])]
    assert decoder({"buy": 7}).decode(records, NOW_MS).weight.tolist() == [7, 1, 1]


def test_an_unknown_item_counts_by_its_attributes_and_else_as_unknown() -> None:
    records = [
        record(0, event(item_id="new", attributes={"colour": "3"})),
        record(1, event(item_id="new", attributes={"colour": "nobody knows"})),
        record(2, event(item_id="new")),
        record(3, event(item_id="new", attributes={"colour": None})),
        record(4, event(item_id="new", attributes={"colour": "3", "brand": None})),
    ]
    batch = decoder().decode(records, NOW_MS)
    assert batch.interest.tolist() == [3, 5, 5, 5, 3]
    assert batch.n_unknown_items == 3


plain_events = st.builds(
    PlainEvent,
    st.sampled_from([b"ann", b"bob", "zoë".encode()]),
    st.integers(0, 4),
    st.integers(10_000 * 86_400_000, 10_120 * 86_400_000),
    st.sampled_from([1, 3]),
)


def records_of(events: Sequence[PlainEvent], start: int) -> list[Any]:
    return [
        record(
            start + i,
            event(
                user_id=e.user.decode(), item_id=f"item-{e.interest}", ts=e.ts_ms, type="buy" if e.weight == 3 else "x"
            ),
            e.user,
        )
        for i, e in enumerate(events)
    ]


def apply(store: BagStore, events: Sequence[PlainEvent], start: int) -> None:
    """One batch: as a partition does it, without the transaction."""
    batch = decoder({"buy": 3}).decode(records_of(events, start), NOW_MS)
    update = update_rows(batch, 0, store)
    rows = list(zip(update.keys, update.values, strict=True))
    after = PartitionRecord("space", "day,month", start + len(events), ledger=Ledger(len(events), len(batch)))
    store.apply(Changes(rows, after, start, store.marks.add(update.users, update.marks)))


def stored_bags(store: BagStore, scales: tuple[Scale, ...]) -> Any:
    users, rows = store.read_users(store.users_after(b"", 100))
    found = {}
    for name, periods in resolve(rows, scales, len(users)).items():
        bounds = periods.bags.offsets.tolist()
        for i, (user, period) in enumerate(zip(periods.user, periods.period, strict=True)):
            pairs = slice(bounds[i], bounds[i + 1])
            bag = dict(zip(periods.bags.interests[pairs].tolist(), periods.bags.counts[pairs].tolist(), strict=True))
            found[users[user], name, SCALES[name].label(int(period))] = bag
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(plain_events, max_size=25), max_size=5))
def test_any_batching_of_events_gives_the_plain_bags(tmp_path_factory: Any, batches: list[list[PlainEvent]]) -> None:
    store = BagStore(tmp_path_factory.mktemp("store") / "p", StoreResources(StoreOptions()))
    scales = parse_scales("day,month")
    start = 0
    first: dict[bytes, int] = {}
    earliest: dict[bytes, int] = {}
    for batch in batches:
        apply(store, batch, start)
        for i, each in enumerate(batch):
            first.setdefault(each.user, seq_of(0, start + i))
            earliest[each.user] = min(earliest.get(each.user, each.ts_ms // MS_PER_DAY), each.ts_ms // MS_PER_DAY)
        start += len(batch)
    assert stored_bags(store, scales) == plain_bags([e for batch in batches for e in batch], scales)
    marks = store.marks.take(100)
    assert {user: mark.first_seq for user, mark in marks.items()} == first
    assert {user: mark.earliest_day for user, mark in marks.items()} == earliest
    store.close()


def test_a_reopened_store_holds_what_was_applied(tmp_path: Path) -> None:
    resources = StoreResources(StoreOptions())
    store = BagStore(tmp_path / "p", resources)
    apply(store, [PlainEvent(b"ann", 1, 10_000 * 86_400_000), PlainEvent(b"bob", 2, 10_001 * 86_400_000)], 0)
    before, marks = stored_bags(store, parse_scales("day")), len(store.marks)
    store.close()
    reopened = BagStore(tmp_path / "p", resources)
    assert stored_bags(reopened, parse_scales("day")) == before
    assert (len(reopened.marks), reopened.changelog_offset) == (marks, 0)
    assert reopened.record is not None
    assert reopened.record.next_offset == 2
    reopened.close()
