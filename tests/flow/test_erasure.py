"""The skip rule of erasures on real stores, without a broker: several applications that read one source.

Whatever the order of events, erasures, rebuilds and new applications: no event below an erasure that an application
knows of counts, nothing else is lost, and one that begins afterwards counts exactly what no erasure took.
"""

from collections.abc import Sequence
from pathlib import Path
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
from stream.kafka.source import Source
from stream.partition.erased import ErasedUsers, continued
from stream.partition.erasing import Asked, Deed, checked, doom, erased_end
from stream.partition.ingest import update_rows
from stream.records.erasure import (
    Answer,
    Checked,
    Erasure,
    Marker,
    decode,
    digest_of,
    encode,
    encode_erasure,
    erasure_key,
)
from tests.flow.test_ingest import NOW_MS, decoder, plain_events, records_of, stored_bags
from tests.plain import PlainEvent
from tests.plain import bags as plain_bags

USERS = ["ann", "bob", "zoë", "nobody"]
APPS = ["shop", "shop-2", "shop-3"]


class World:
    """One source partition, its erasures, and who reads them."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder = folder
        self.source = Source("events", "topic-id", epoch, "erasures-id")
        self.events: list[PlainEvent] = []
        self.erasures: list[Any] = []
        self.ends: dict[str, int] = {}
        self.apps: dict[str, Application] = {}

    def app(self, name: str) -> "Application":
        return self.apps.setdefault(name, Application(self, name)) if name not in self.apps else self.apps[name]

    def compact(self) -> None:
        """Only the last record of each key stays, where it stood."""
        last = {each.key: each.offset for each in self.erasures}
        self.erasures = [each for each in self.erasures if each.offset == last[each.key]]

    def append(self, key: bytes, value: bytes) -> None:
        offset = self.erasures[-1].offset + 1 if self.erasures else 0
        self.erasures.append(SimpleNamespace(offset=offset, key=key, value=value))


class Application:
    """A partition of an application without its transactions, and a model of it that knows no hash."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.n_built = 0
        self.build()

    def build(self) -> None:
        """From nothing."""
        self.n_built += 1
        path = self.world.folder / f"{self.name}-{self.n_built}"
        self.store = BagStore(path, StoreResources(StoreOptions()))
        self.record = PartitionRecord("space", "day,month", epoch=self.world.source.epoch, source_id="topic-id")
        self.erased = ErasedUsers(self.world.source.name, "erasures-id")
        self.counted: list[PlainEvent] = []
        self.known: dict[str, int] = {}
        self.learn()

    def restart(self) -> None:
        """Memory is lost, the record stays."""
        self.erased = continued(self.world.source, self.record, 0)
        self.learn()

    def learn(self) -> None:
        new = [each for each in self.world.erasures if each.offset >= self.erased.next_offset]
        assert self.erased.learn(new, self.record.next_offset, len(self.world.events)) == 0
        self.known = dict(self.world.ends)

    def apply(self, n: int) -> None:
        start = self.record.next_offset
        events = self.world.events[start : start + n]
        records = records_of(events, start)
        counted = self.erased.still_counted(records)
        expected = [start + i for i, event in enumerate(events) if start + i >= self.known.get(event.user.decode(), 0)]
        assert [each.offset for each in counted] == expected
        self.counted += [self.world.events[offset] for offset in expected]
        batch = decoder({"buy": 3}).decode(counted, NOW_MS)
        update = update_rows(batch, self.record.epoch, self.store)
        ledger = self.record.ledger + Ledger(len(records), len(batch), len(records) - len(counted))
        self.erased.forget_passed(start + len(events))
        rows = list(zip(update.keys, update.values, strict=True))
        self._write(rows, next_offset=start + len(events), ledger=ledger)
        self.store.apply(Changes(rows, self.record, start, self.store.marks.add(update.users, update.marks)))

    def erase(self, users: Sequence[str], end_offset: int) -> None:
        asked = [Asked(Marker(f"{i}", user, end_offset, False, 0, "topic-id"), i) for i, user in enumerate(users)]
        while asked:
            doomed = doom(self.store, asked)
            deed = Deed(self.record, 0, {}, 0)
            ends = [
                self.erased.erase(each.user, erased_end(each.marker, self.record), self.record.next_offset)
                for each in doomed
            ]
            for each, end in zip(doomed, ends, strict=True):
                key, value, _ = deed.erasure(each.user, end, self.world.source.name, self.name)
                assert value is not None
                self.world.append(key or b"", value)
                name = each.marker.user
                self.world.ends[name] = max(self.world.ends.get(name, 0), end)
                self.known[name] = max(self.known.get(name, 0), end)
            rows = [(key, None) for each in doomed for key in each.rows]
            self._write(rows)
            self.store.apply(Changes(rows, self.record, 0, erased=[each.user for each in doomed]))
            found = [decode(said.value) for said in checked(self.store, doomed)]
            assert all(
                isinstance(each, Checked) and (each.rows, each.marks, each.caches) == (0, 0, 0) for each in found
            )
            asked = asked[len(doomed) :]
        self.counted = [event for event in self.counted if event.user.decode() not in users]

    def _write(self, rows: Sequence[Any], **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **self.erased.noted(), **changes)
        self.record = decode_record(encode_record(self.record))

    def check(self) -> None:
        scales = parse_scales("day,month")
        assert stored_bags(self.store, scales) == plain_bags(self.counted, scales)
        assert self.record.ledger.balanced


apps = st.sampled_from(APPS)
steps = st.one_of(
    st.tuples(st.just("send"), st.lists(plain_events, min_size=1, max_size=12)),
    st.tuples(st.just("apply"), apps, st.integers(1, 9)),
    st.tuples(st.just("erase"), apps, st.lists(st.sampled_from(USERS), min_size=1, max_size=3), st.integers(0, 5)),
    st.tuples(st.sampled_from(["learn", "restart", "build"]), apps),
    st.tuples(st.just("compact")),
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=25), st.integers(0, 3))
def test_no_event_below_an_erasure_counts_again_and_nothing_after_it_is_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], epoch: int
) -> None:
    world = World(tmp_path_factory.mktemp("world"), epoch)
    for step, *arguments in steps:
        if step == "send":
            world.events += arguments[0]
        elif step == "compact":
            world.compact()
        elif step == "apply":
            world.app(arguments[0]).apply(arguments[1])
        elif step == "erase":
            # A marker may have been written a while ago.
            name, users, n_ago = arguments
            world.app(name).erase(users, max(0, len(world.events) - n_ago))
        else:
            getattr(world.app(arguments[0]), step)()
    for app in [*world.apps.values(), world.app("late")]:
        app.apply(len(world.events))
        app.check()
        assert len(app.erased) == 0, "what is passed is forgotten"
    late = [event for i, event in enumerate(world.events) if i >= world.ends.get(event.user.decode(), 0)]
    assert stored_bags(world.app("late").store, parse_scales("day")) == plain_bags(late, parse_scales("day"))
    for app in world.apps.values():
        app.store.close()


def test_an_event_that_could_not_be_read_is_skipped_too_and_an_event_without_a_key_is_not() -> None:
    erased = ErasedUsers("topic-id")
    erased.erase(b"ann", 5, 0)
    poison = [SimpleNamespace(offset=i, key=key, value=b"{") for i, key in enumerate([b"ann", None, b"bob", b"ann"])]
    assert [each.offset for each in erased.still_counted(poison)] == [1, 2]
    assert len(erased.still_counted([SimpleNamespace(offset=5, key=b"ann", value=b"{")])) == 1


def test_erasures_of_another_topic_of_the_same_events_are_others() -> None:
    erased = ErasedUsers("new-id")
    value = encode_erasure(Erasure("old-id", 9, 0))
    record = SimpleNamespace(offset=0, key=erasure_key(digest_of("old-id", b"ann"), "shop"), value=value)
    assert erased.learn([record], 0, 100) == 0
    assert len(erased.still_counted([SimpleNamespace(offset=0, key=b"ann")])) == 1


def test_an_end_behind_the_source_is_the_source_s_end() -> None:
    erased = ErasedUsers("topic-id")
    value = encode_erasure(Erasure("topic-id", 2**62, 0))
    erased.learn([SimpleNamespace(offset=7, key=erasure_key(digest_of("topic-id", b"ann"), "shop"), value=value)], 0, 3)
    kept = erased.still_counted([SimpleNamespace(offset=i, key=b"ann") for i in range(5)])
    assert [each.offset for each in kept] == [3, 4]
    assert erased.next_offset == 8


@pytest.mark.parametrize("key", [None, b"", b"zz" * 16, b"00" * 15, b"ann", "zoë".encode() * 16, b"\xff" * 32])
def test_what_is_no_erasure_is_counted_and_left(key: bytes | None) -> None:
    erased, value = ErasedUsers("topic-id"), encode_erasure(Erasure("topic-id", 9, 0))
    records = [(key, value), *((b"00" * 16 + b":shop", bad) for bad in (None, b"", b"[]", b"{", value + b" " * 4_096))]
    assert erased.learn([SimpleNamespace(offset=0, key=k, value=v) for k, v in records], 0, 9) == 6
    assert len(erased) == 0


def test_erasures_that_waited_in_the_partition_record_are_still_skipped() -> None:
    """As workers wrote them before there was an erasures topic."""
    record = PartitionRecord("space", "day", next_offset=3, erasing={"ann": seq_of(0, 9), "bob": seq_of(1, 2)})
    assert record.still_erasing() == {"ann": 9, "bob": (1 << 40) + 2}
    again = msgspec.structs.replace(record, epoch=1, next_offset=0)
    assert again.without_passed().still_erasing() == {"bob": 2}
    assert again.without_passed().erasing == {"bob": seq_of(1, 2)}


def test_two_hundred_thousand_waiting_erasures_leave_the_partition_record_as_small_as_it_is() -> None:
    erased, record = ErasedUsers("topic-id", "erasures-id", 7), PartitionRecord("space", "day")
    for number in range(200_000):
        erased.erase(f"user-{number}".encode(), 10, 0)
    assert len(erased) == 200_000
    assert msgspec.structs.replace(record, **erased.noted()) == record, (
        "the erasures are read again until they are passed"
    )
    erased.forget_passed(10)
    assert len(encode_record(msgspec.structs.replace(record, **erased.noted()))) < 400


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


def test_an_erasure_of_the_first_format_is_read_and_names_no_user() -> None:
    key, value = (
        b"c101a8a352e0cf2e894583dd3dcaf90e:shop",
        b'{"source":"topic-id","end_offset":9,"erased_at_ms":1,"format":1}',
    )
    erased = ErasedUsers("topic-id")
    assert erasure_key(digest_of("topic-id", b"ann"), "shop") == key
    assert encode_erasure(Erasure("topic-id", 9, 1)) == value
    erased.learn([SimpleNamespace(offset=0, key=key, value=value)], 0, 9)
    assert len(erased.still_counted([SimpleNamespace(offset=8, key=b"ann")])) == 0


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"kind":"other"}', b'{"kind":"erase"}', b"[]"])
def test_what_is_no_control_record_says_nothing(value: bytes | None) -> None:
    assert decode(value) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"user": ""},
        {"user": "a" * 257},
        {"user": "ë" * 129},
        {"user": "a\0b"},
        {"user": "a" * 900_000},
        {"id": "1" * 65},
        {"id": ""},
        {"source_id": "t" * 301},
        {"end_offset": -1},
        {"end_offset": 2**63},
        {"requested_at_ms": -1},
        {"requested_at_ms": 10**18},
        {"requested_at_ms": "soon"},
        {"more": "x" * 900_000},
    ],
)
def test_a_marker_that_no_command_writes_is_refused(odd: dict[str, Any]) -> None:
    fine = {"kind": "erase", "id": "1f", "user": "ann", "end_offset": 7, "embedded": True, "requested_at_ms": 0}
    assert decode(msgspec.json.encode(fine)) is not None
    assert decode(msgspec.json.encode(fine | odd)) is None


@pytest.mark.parametrize("odd", [{"erased_at_ms": 10**18}, {"erased_below": -1}, {"epoch": 2**40}, {"rows": 2**70}])
def test_an_answer_that_no_worker_gives_is_refused(odd: dict[str, Any]) -> None:
    fine = msgspec.to_builtins(Answer("1f", 0, 5, 7, 3, 1, 0, -1, None, 1_700_000_000_001))
    assert decode(msgspec.json.encode(fine)) is not None
    assert decode(msgspec.json.encode(fine | odd)) is None


def test_the_longest_user_s_marker_is_read() -> None:
    for user in ("\x01" * 256, "é" * 128):
        marker = Marker("f" * 32, user, 2**62, embedded=True, requested_at_ms=253_402_300_799_999, source_id="a" * 300)
        assert decode(encode(marker)) == marker


def test_a_marker_of_a_later_format_is_left_to_a_later_worker() -> None:
    marker = msgspec.structs.replace(Marker("1", "ann", 0, embedded=False, requested_at_ms=0), format=2)
    assert decode(encode(marker)) is None
