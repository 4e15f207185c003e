"""The skip rule of erasures on a real store, without a broker: any batching, any end offset, any number of erasures."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.options import StoreOptions, StoreResources
from state.periods import parse_scales
from state.record import Ledger, PartitionRecord, decode_record, encode_record
from state.rows import seq_of
from state.store import BagStore, Changes
from stream.partition.ingest import update_rows
from stream.records.erasure import Answer, Checked, Marker, decode, encode, erased_end, still_counted
from tests.flow.test_ingest import NOW_MS, decoder, plain_events, records_of, stored_bags
from tests.plain import PlainEvent, without_erased
from tests.plain import bags as plain_bags

USERS = ["ann", "bob", "zoë", "nobody"]


class Simulated:
    """A partition without its transactions, which remembers what the plain reference needs."""

    def __init__(self, store: BagStore, epoch: int) -> None:
        self.store = store
        self.record = PartitionRecord("space", "day,month", epoch=epoch)
        self.sent: dict[tuple[int, int], PlainEvent] = {}
        self.ends: dict[bytes, dict[int, int]] = {}
        self.skipped: set[tuple[int, int]] = set()

    def apply(self, events: Sequence[PlainEvent]) -> None:
        start = self.record.next_offset
        self.sent |= {(0, start + i): event for i, event in enumerate(events)}
        records = records_of(events, start)
        counted = still_counted(records, self.record)
        batch = decoder({"buy": 3}).decode(counted, NOW_MS)
        update = update_rows(batch, self.record.epoch, self.store)
        ledger = self.record.ledger + Ledger(len(records), len(batch), len(records) - len(counted))
        self.record = msgspec.structs.replace(self.record, next_offset=start + len(events), ledger=ledger)
        self.record = decode_record(encode_record(self.record.without_passed()))
        rows = list(zip(update.keys, update.values, strict=True))
        self.store.apply(Changes(rows, self.record, start, self.store.marks.add(update.users, update.marks)))

    def erase(self, user: str, end_offset: int) -> None:
        below = max(end_offset, self.record.next_offset)
        own = self.ends.setdefault(user.encode(), {0: 0})
        own[0] = max(own[0], below)
        self.record = self.record.erasing_below(user, below)
        rows = [(key, None) for key in self.store.view().held(user.encode()).rows]
        self.store.apply(Changes(rows, self.record, 0, erased=[user.encode()]))
        assert self.store.view().held(user.encode()) == ([], 0)
        assert user.encode() not in self.store.marks


steps = st.one_of(
    st.lists(plain_events, max_size=12), st.tuples(st.sampled_from(USERS), st.integers(-5, 20))
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=10), st.integers(0, 3))
def test_exactly_the_events_below_an_erasure_s_end_are_skipped(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], epoch: int
) -> None:
    store = BagStore(tmp_path_factory.mktemp("store") / "p", StoreResources(StoreOptions()))
    partition, scales = Simulated(store, epoch), parse_scales("day,month")
    for step in steps:
        if isinstance(step, tuple):
            partition.erase(step[0], partition.record.next_offset + step[1])
            continue
        before = partition.record.ledger.skipped
        expected = sum(
            partition.record.next_offset + i < partition.ends.get(event.user, {0: 0})[0] for i, event in enumerate(step)
        )
        partition.apply(step)
        assert partition.record.ledger.skipped - before == expected
    assert stored_bags(store, scales) == plain_bags(without_erased(partition.sent, partition.ends), scales)
    assert partition.record.ledger.balanced
    reached = partition.record.next_offset
    assert partition.record.erasing == {
        user.decode(): seq_of(epoch, ends[0]) for user, ends in partition.ends.items() if ends[0] > reached
    }
    store.close()


def test_an_event_that_could_not_be_read_is_skipped_too_and_an_event_without_a_key_is_not() -> None:
    record = PartitionRecord("space", "day", erasing={"ann": seq_of(0, 5)})
    poison = [SimpleNamespace(offset=i, key=key, value=b"{") for i, key in enumerate([b"ann", None, b"bob", b"ann"])]
    assert [each.offset for each in still_counted(poison, record)] == [1, 2]


def test_a_recreated_source_forgets_erasures_of_the_one_before() -> None:
    record = PartitionRecord("space", "day", next_offset=3, erasing={"ann": seq_of(0, 9)})
    again = msgspec.structs.replace(record, epoch=1, next_offset=0)
    assert again.without_passed().erasing == {}
    assert len(still_counted([SimpleNamespace(offset=0, key=b"ann")], again)) == 1


@pytest.mark.parametrize(("source_id", "next_offset", "end"), [("a", 3, 9), ("a", 12, 12), ("", 3, 9), ("b", 3, 3)])
def test_a_marker_ends_a_life_in_the_topic_it_was_written_for(source_id: str, next_offset: int, end: int) -> None:
    marker = Marker("1f", "ann", end_offset=9, embedded=False, requested_at_ms=0, source_id="a")
    record = PartitionRecord("space", "day", next_offset=next_offset, source_id=source_id)
    assert erased_end(marker, record) == end


def test_control_records_of_the_first_format_are_read() -> None:
    checked = b'{"kind":"checked","id":"1f","rows":0,"marks":1,"caches":2,"format":1}'
    assert decode(checked) == Checked("1f", rows=0, marks=1, caches=2)
    marker = (
        b'{"kind":"erase","id":"1f","user":"zo\xc3\xab","end_offset":7,"embedded":true,'
        b'"requested_at_ms":1700000000000,"source_id":"topic","format":1}'
    )
    answer = (
        b'{"kind":"erased","id":"1f","epoch":0,"applied_below":5,"erased_below":7,"rows":3,"marks":1,"caches":0,'
        b'"changelog_after":-1,"embedding_offset":null,"erased_at_ms":1700000000001,"format":1}'
    )
    assert decode(marker) == Marker("1f", "zoë", 7, embedded=True, requested_at_ms=1_700_000_000_000, source_id="topic")
    assert decode(answer) == Answer("1f", 0, 5, 7, 3, 1, 0, -1, None, 1_700_000_000_001)
    assert [encode(each) for each in (decode(marker), decode(answer)) if each] == [marker, answer]


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"kind":"other"}', b'{"kind":"erase"}', b"[]"])
def test_what_is_no_control_record_says_nothing(value: bytes | None) -> None:
    assert decode(value) is None


def test_a_marker_of_a_later_format_is_left_to_a_later_worker() -> None:
    marker = msgspec.structs.replace(Marker("1", "ann", 0, embedded=False, requested_at_ms=0), format=2)
    assert decode(encode(marker)) is None
