"""What becomes of a record does not depend on the records beside it: any split into batches gives the same."""

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lurm_model.inference.incremental import IncrementalEncoder
from state.periods import MS_PER_DAY
from state.record import Ledger
from state.rows import RECORD_KEY
from stream.records.events import EventDecoder, Limits
from stream.testing.bundle import FIRST_DAY
from tests.one_partition import Model, OnePartition
from tests.pretended_topics import NAMES
from tests.property.test_hostile_bytes import events as hostile
from tests.property.test_hostile_bytes import spoilt
from tests.workers import bundle_with_kinds

BUNDLE = bundle_with_kinds()
ENCODER = IncrementalEncoder(BUNDLE, "cpu")


def as_json(**changes: Any) -> bytes:
    return json.dumps({"user_id": "ann", "item_id": "item-1", "ts": FIRST_DAY * MS_PER_DAY} | changes).encode()


WHOLE = as_json()
BLANKS = [b" ", b"\t", b"\n", b"\r\n", b"", b"{}", b"}", b"{"]
good = st.builds(
    as_json,
    item_id=st.sampled_from(["item-1", "item-2", "never seen"]),
    ts=st.integers(FIRST_DAY, FIRST_DAY + 90).map(lambda day: day * MS_PER_DAY),
    attributes=st.sampled_from([None, {"kind": "3"}, {"kind": ["4", "5"]}]),
    note=st.text(max_size=3),
)
# Several objects in one, and one in several: what fits only together with its neighbours.
together = st.builds(
    lambda parts, glue: glue.join(parts),
    st.lists(good, min_size=2, max_size=3),
    st.sampled_from([b"", b" ", b",", b"\n"]),
)
halves = st.builds(lambda whole, at: [whole[:at], whole[at:]], good, st.integers(1, len(WHOLE) - 1))
nested = st.sampled_from([[WHOLE[:-1] + b',"x":{"y":"}', b'{","z":1}}'], [WHOLE[:-1] + b',"x":[{}', b"{}]}"]])
blank = st.sampled_from(BLANKS)
padded = st.builds(lambda before, whole, after: before + whole + after, blank, good, blank)
values = st.one_of(
    good.map(lambda value: [value]),
    together.map(lambda value: [value]),
    halves,
    nested,
    blank.map(lambda value: [value]),
    padded.map(lambda value: [value]),
    spoilt(good).map(lambda value: [value]),
    hostile.map(lambda value: [value]),
)
records = st.lists(st.tuples(st.sampled_from([b"ann", b"ann", b"ann", b"bob", None]), values), max_size=8).map(
    lambda drawn: [(key, value) for key, parts in drawn for value in parts]
)
Given = list[tuple[bytes | None, bytes]]


def what_becomes_of(given_records: Given, ends: Sequence[int]) -> tuple[dict, list, Ledger]:
    """Rows, dead letters and ledger, when the batches end at these places."""
    sources = [
        SimpleNamespace(offset=i, timestamp=i, key=key, value=value, headers=())
        for i, (key, value) in enumerate(given_records)
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = OnePartition(Path(folder), [Model(BUNDLE, ENCODER)], n_disks=1)
        for start, end in itertools.pairwise([0, *sorted(ends), len(sources)]):
            made.run(made.owner.partition.apply(sources[start:end], end))
        rows = {entry.key: entry.value for entry in made.topics.changelog if entry.key != RECORD_KEY}
        ledger = made.owner.partition.record.ledger
        made.close()
    return rows, made.topics.written[NAMES.dead_letters], ledger


@settings(max_examples=60)
@given(records, st.data())
@example([(b"ann", b" "), (b"ann", WHOLE + WHOLE)], None)
@example([(b"ann", WHOLE[:20]), (b"ann", WHOLE[20:]), (b"ann", WHOLE + b"\r" + WHOLE)], None)
def test_any_split_of_any_records_into_batches_gives_the_same_rows_rejections_and_ledger(
    given_records: Given, data: st.DataObject | None
) -> None:
    n = len(given_records)
    alone = what_becomes_of(given_records, range(n))
    ends = [] if data is None else data.draw(st.lists(st.integers(0, n), max_size=3))
    assert what_becomes_of(given_records, ends) == alone
    assert alone[2].balanced
    assert alone[2].received == n


def nested_so_deeply(depth: int) -> Any:
    value = WHOLE[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    return SimpleNamespace(offset=0, timestamp=0, key=b"ann", value=value, headers=())


@pytest.mark.parametrize("beside", [b"", b"poison", WHOLE])
def test_how_deeply_an_event_may_be_nested_does_not_depend_on_its_neighbours(beside: bytes) -> None:
    decoder = EventDecoder(BUNDLE.codebook, {}, Limits(65_536, 0, 0))
    neighbour = SimpleNamespace(offset=1, timestamp=0, key=b"ann", value=beside, headers=())
    for depth in range(700, 1000):
        alone, both = ([nested_so_deeply(depth)], [nested_so_deeply(depth), neighbour])
        now_ms = FIRST_DAY * MS_PER_DAY
        accepted = 0 in decoder.decode(alone, now_ms).offset
        assert (0 in decoder.decode(both, now_ms).offset) == accepted, depth
