"""A disk that comes back, however old, however often its replay is cut short, holds what the events give.

The changelog is the worst that compaction may leave: only the newest record of a key, and no tombstone older than
they are kept. Days are rolled up and users erased meanwhile, so a disk that misses tombstones counts them twice. It may
be deleted and built again, by an owner that applied more or fewer events at once, so that its offsets mean other rows;
and the owner's clock may be ahead for a while, so that what is old looks as if it came from the future.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from state.bags import sum_pairs
from state.options import StoreOptions, StoreResources
from state.periods import DAY, MS_PER_DAY, parse_scales
from state.record import PartitionRecord, encode_record
from state.rollup import roll_up
from state.rows import RECORD_KEY, decode_values, encode_keys, encode_values
from state.store import TOMBSTONE_RETENTION_S, BagStore, Changes
from stream.operations.bag_report import period_bags
from tests.plain import Bags, PlainEvent, bags

SCALES = parse_scales("day,month")
USERS = [b"ann", b"bob"]
RECORD = PartitionRecord("space", "day,month")
# Four months, so that days leave the window.
plain_events = st.builds(
    PlainEvent,
    st.sampled_from(USERS),
    st.integers(0, 2),
    st.integers(20_000, 20_120).map(lambda day: day * MS_PER_DAY),
    st.just(1),
)
steps = st.one_of(
    st.tuples(st.just("events"), st.lists(plain_events, min_size=1, max_size=6)),
    st.tuples(st.just("roll_up"), st.none()),
    st.tuples(st.just("erase"), st.sampled_from(USERS)),
    st.tuples(st.just("days"), st.floats(0.1, 10)),
    st.tuples(st.just("visit"), st.floats(0, 1)),
    st.tuples(st.just("rebuild"), st.integers(1, 4)),
    st.tuples(st.just("clock"), st.sampled_from([0, 0.4, 400])),
)


class Entry(NamedTuple):
    """A record with the time that its writer gave it, and when the broker got it, which is what compaction goes by."""

    offset: int
    key: bytes
    value: bytes | None
    ts_ms: int
    written_s: float


class Partition:
    """One partition: its owner, its changelog, a clock, and another worker's disk."""

    def __init__(self, folder: Path) -> None:
        self.resources = StoreResources(StoreOptions())
        self.folder = folder
        self.owner = BagStore(folder / "owner-0", self.resources)
        self.path = folder / "other"
        self.now_s = time.time()
        self.ahead_days = 0.0
        self.changelog: list[Entry] = []
        self.changelog_id = 0
        self.sent: list[PlainEvent] = []

    def step(self, name: str, argument: Any) -> None:
        if name == "events":
            self.add(argument)
        elif name == "roll_up":
            self.write(roll_up(*self.owner.read_users(USERS), SCALES))
        elif name == "erase":
            self.sent = [event for event in self.sent if event.user != argument]
            users, rows = self.owner.read_users([argument])
            self.write([(key, None) for key in encode_keys(users, rows.user, rows.scale, rows.period)])
        elif name == "days":
            self.now_s += argument * 86_400
        elif name == "clock":
            self.ahead_days = argument
        elif name == "rebuild":
            self.rebuild(argument)
        else:
            self.visit(argument)

    def rebuild(self, n_together: int) -> None:
        """The changelog is deleted; an owner with an empty disk reads all events again, so many in a transaction."""
        self.owner.close()
        self.changelog_id, self.changelog = self.changelog_id + 1, []
        self.owner = BagStore(self.folder / f"owner-{self.changelog_id}", self.resources)
        sent, self.sent = self.sent, []
        for start in range(0, len(sent), n_together):
            before = len(self.changelog)
            self.add(sent[start : start + n_together])
            # One row a key, and the partition's record.
            rows = {entry.key: entry.value for entry in self.changelog[before:]} | {RECORD_KEY: encode_record(RECORD)}
            del self.changelog[before:]
            self.write(list(rows.items()))

    @property
    def clock_ms(self) -> int:
        """What the owner takes for now."""
        return int((self.now_s + self.ahead_days * 86_400) * 1000)

    def add(self, events: list[PlainEvent]) -> None:
        one = np.ones(1, np.int64)
        for event in events:
            (key,) = encode_keys([event.user], 0 * one, DAY.code * one, event.ts_ms // MS_PER_DAY * one)
            old = self.owner.get([key])[0]
            counts = decode_values([] if old is None else [old])[2]
            interests = np.append(counts.interests, np.uint32(event.interest))
            merged = sum_pairs(np.zeros(len(interests), np.int64), interests, np.append(counts.counts, np.uint32(1)), 1)
            self.write([(key, encode_values(len(self.changelog) * one, event.ts_ms * one, merged)[0])])
        self.sent += events

    def write(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        n = len(self.changelog)
        self.changelog += [Entry(n + i, *row, self.clock_ms, self.now_s) for i, row in enumerate(rows)]
        self.owner.apply(Changes(rows, RECORD, n + len(rows) - 1))

    def compacted(self) -> list[Entry]:
        newest = {entry.key: entry.offset for entry in self.changelog}
        horizon_s = self.now_s - TOMBSTONE_RETENTION_S
        return [
            entry
            for entry in self.changelog
            if newest[entry.key] == entry.offset and (entry.value is not None or entry.written_s > horizon_s)
        ]

    def visit(self, share: float) -> Bags:
        """The other disk opens, replays this share of what it lacks, and goes away again; the bags it holds."""
        store = BagStore.open_fresh(self.path, self.resources, self.now_s, f"changelog {self.changelog_id}")
        applied = store.changelog_offset
        lacking = [entry for entry in self.compacted() if entry.offset > applied]
        part = lacking[: round(share * len(lacking))]
        if part:
            store.replay([(entry.key, entry.value, entry.ts_ms) for entry in part], part[-1].offset)
        users, rows = store.read_users(USERS)
        found = {(bag.user_id.encode(), bag.scale, bag.period): bag.interests
                 for bag in period_bags(users, rows, SCALES)}  # fmt: skip
        store.close()
        return found


EARLY, LATE = PlainEvent(b"ann", 1, 20_000 * MS_PER_DAY), PlainEvent(b"ann", 1, 20_120 * MS_PER_DAY)
AWAY = [("events", [EARLY]), ("visit", 1.0), ("events", [LATE]), ("roll_up", None), ("days", 8.0)]
CUT_SHORT = [
    ("events", [EARLY]), ("visit", 1.0), ("events", [LATE]), ("days", 1.0), ("roll_up", None), ("days", 4.0),
    ("events", [PlainEvent(b"bob", 1, EARLY.ts_ms)]), ("visit", 0.34), ("days", 4.0),
]  # fmt: skip

# What is read from the old offset on lacks Ann's two newest events.
REBUILT = [
    *[("events", [EARLY]), ("events", [EARLY])] * 4, ("visit", 1.0), ("events", [EARLY]), ("rebuild", 4),
    ("events", [PlainEvent(b"bob", 1, EARLY.ts_ms)] * 12),
]  # fmt: skip
FROM_THE_FUTURE = [("clock", 400), *AWAY]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=14))
@example(AWAY)
@example(CUT_SHORT)
@example(REBUILT)
@example(FROM_THE_FUTURE)
def test_a_disk_that_returns_holds_what_the_events_give(
    tmp_path_factory: pytest.TempPathFactory, history: list
) -> None:
    partition = Partition(tmp_path_factory.mktemp("partition"))
    for name, argument in history:
        partition.step(name, argument)
    assert partition.visit(1.0) == bags(partition.sent, SCALES)
    partition.owner.close()
