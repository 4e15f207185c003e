"""What a worker learns from the items topic and what its events count to then, without a broker."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.interests.codebook import Codebook
from stream.outcomes import ItemOutcome
from stream.records.events import EventDecoder, Limits
from stream.records.new_items import ItemRecord, LearnedItems, NewItem, encode

NOW_MS = 1_700_000_000_000
VECTORS = np.eye(5, dtype=np.float32)
BOOK = Codebook({"known": 4}, VECTORS, np.ones(6, np.float32), {f"colour={i}": i for i in range(5)}, VECTORS)
SPACE = BOOK.interest_space_id


def said(key: bytes | None, value: Any, partition: int = 0, at_ms: int = NOW_MS) -> ItemRecord:
    raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    return ItemRecord(partition, at_ms, key, raw)


def learn(learned: LearnedItems, *records: Any) -> dict[ItemOutcome, int]:
    return dict(learned.take(records, learned.read(records)))


def decoded(decoder: EventDecoder, *events: dict[str, Any]) -> list[int]:
    values = [json.dumps({"user_id": "ann", "ts": NOW_MS} | event).encode() for event in events]
    records = [SimpleNamespace(offset=i, timestamp=NOW_MS, key=b"ann", value=v) for i, v in enumerate(values)]
    batch = decoder.decode(records, NOW_MS)
    assert not batch.rejected
    assert batch.n_unknown_items == batch.interest.tolist().count(BOOK.unknown)
    return batch.interest.tolist()


def decoder_of(learned: LearnedItems | None = None, book: Codebook = BOOK) -> EventDecoder:
    return EventDecoder(book, {}, Limits(1000, 0, 0), learned.interest_of if learned else None)


def test_an_item_counts_to_its_interest_from_the_moment_it_is_learned_until_it_is_forgotten() -> None:
    learned = LearnedItems(BOOK)
    decoder = decoder_of(learned)
    assert decoded(decoder, {"item_id": "new"}) == [BOOK.unknown]
    assert learn(learned, said(b"new", {"attributes": {"colour": "3"}})) == {ItemOutcome.LEARNED: 1}
    assert decoded(decoder, {"item_id": "new"}) == [3]
    assert learn(learned, said(b"new", None)) == {ItemOutcome.FORGOTTEN: 1}
    assert decoded(decoder, {"item_id": "new"}) == [BOOK.unknown]


def test_the_bundle_goes_before_the_topic_and_the_topic_before_an_events_own_attributes() -> None:
    learned = LearnedItems(BOOK)
    decoder, own = decoder_of(learned), {"colour": "0"}
    before = decoded(decoder, {"item_id": "known", "attributes": own}, {"item_id": "new", "attributes": own})
    records = [said(item, {"interest": 2, "interest_space_id": SPACE}) for item in (b"known", b"new")]
    assert learn(learned, *records) == {ItemOutcome.IN_BUNDLE: 1, ItemOutcome.LEARNED: 1}
    after = decoded(decoder, {"item_id": "known", "attributes": own}, {"item_id": "new", "attributes": own})
    assert (before, after) == ([4, 0], [4, 2])


BAD: dict[ItemOutcome, list[Any]] = {
    ItemOutcome.NOT_JSON: [b"", b"{", b"\xff", b'{"more":' + b"[" * 20_000],
    ItemOutcome.WRONG_TYPE: [
        b"[]",
        b"null",
        b'"x"',
        b'{"interest":"3"}',
        b'{"interest":1.5}',
        b'{"attributes":{"a":1}}',
    ],
    ItemOutcome.OTHER_SPACE: [{"interest": 3}, {"interest": 3, "interest_space_id": "0" * 16, "attributes": {}}],
    ItemOutcome.NO_SUCH_INTEREST: [{"interest": i, "interest_space_id": SPACE} for i in (-1, 5, 2**70)],
    ItemOutcome.UNKNOWN: [{}, {"attributes": {}}, {"attributes": {"colour": "moon"}}, {"interest_space_id": SPACE}],
}


PAIRS = [(outcome, value) for outcome, values in BAD.items() for value in values]


@pytest.mark.parametrize(("outcome", "value"), PAIRS, ids=range(len(PAIRS)))
def test_a_record_that_says_nothing_is_counted_and_leaves_its_item_unknown_and_the_others_alone(
    outcome: ItemOutcome, value: Any
) -> None:
    learned = LearnedItems(BOOK)
    good = [said(name, {"attributes": {"colour": "1"}}) for name in (b"new", b"before")]
    assert learn(learned, *good, said(b"new", value), said(b"after", {"attributes": {"colour": "2"}})) == {
        ItemOutcome.LEARNED: 3,
        outcome: 1,
    }
    assert learned.interest_of == {"before": 1, "after": 2}


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"x" * 257])
def test_a_key_that_no_event_can_name_is_counted(key: bytes | None) -> None:
    learned = LearnedItems(BOOK)
    assert learn(learned, said(key, {"attributes": {"colour": "1"}})) == {ItemOutcome.BAD_KEY: 1}
    assert learned.interest_of == {}


def test_attributes_serve_where_the_interest_is_of_another_space() -> None:
    learned = LearnedItems(BOOK)
    learn(learned, said(b"new", encode(NewItem({"colour": ["3"]}, 1, "0" * 16))))
    assert learned.interest_of == {"new": 3}


values = st.one_of(
    st.none(),
    st.binary(max_size=8),
    st.sampled_from(
        [encode(NewItem({"colour": ["3"]})), encode(NewItem(None, 1, SPACE)), encode(NewItem(None, 9, SPACE))]
    ),
    st.dictionaries(
        st.sampled_from(["attributes", "interest", "interest_space_id"]),
        st.recursive(
            st.none() | st.integers() | st.text() | st.just(SPACE), lambda inner: st.dictionaries(st.text(), inner)
        ),
    ).map(lambda made: json.dumps(made).encode()),
)
hostile = st.lists(st.tuples(st.none() | st.sampled_from([b"a", b"b", b"known", b"\xff"]), values), max_size=12)


@given(hostile, st.integers(0, 12))
def test_what_is_known_is_a_function_of_the_newest_record_of_each_item_however_it_arrives(
    pairs: list[tuple[bytes | None, bytes | None]], cut: int
) -> None:
    records = [said(key, value) for key, value in pairs]
    together, in_two, compacted = LearnedItems(BOOK), LearnedItems(BOOK), LearnedItems(BOOK)
    counted = learn(together, *records)
    assert sum(counted.values()) == len(records)
    learn(in_two, *records[:cut])
    learn(in_two, *records[cut:])
    learn(compacted, *{record.key: record for record in records}.values())
    assert together.interest_of == in_two.interest_of == compacted.interest_of
    assert "known" not in together.interest_of
    assert all(0 <= interest < BOOK.unknown for interest in together.interest_of.values())


words = [None, {"interest": 1, "interest_space_id": SPACE}, {"attributes": {"colour": "3"}}]
spoken = st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from(words)), min_size=2, max_size=6)


Sent = tuple[bytes, Any, int, int]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from(words), st.integers(0, 2), st.integers(0, 3)),
                min_size=2, max_size=8), st.data())  # fmt: skip
def test_all_workers_agree_about_an_item_whatever_partitions_and_times_its_records_have(
    sent: list[Sent], data: st.DataObject
) -> None:
    """One reads as it comes, one reads partition by partition, one reads what compaction has left."""
    records = [said(key, value, partition, NOW_MS + later) for key, value, partition, later in sent]
    as_they_came, in_turn, compacted = (LearnedItems(BOOK, 3) for _ in range(3))
    learn(as_they_came, *records)
    left: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for record in records:
        left[record.partition].append(record)
    for partition in data.draw(st.permutations([record.partition for record in records])):
        learn(in_turn, left[partition].pop(0))
    newest = {(record.partition, record.key): record for record in records}
    learn(compacted, *data.draw(st.permutations(list(newest.values()))))
    assert as_they_came.interest_of == in_turn.interest_of == compacted.interest_of


@given(spoken, spoken)
def test_who_reads_a_topic_again_knows_what_a_new_worker_knows(before: list[Any], after: list[Any]) -> None:
    running, new = LearnedItems(BOOK), LearnedItems(BOOK, 2)
    learn(running, *(said(key, value) for key, value in before))
    looked_up_in, records = (
        running.interest_of,
        [said(key, value, i % 2, NOW_MS) for i, (key, value) in enumerate(after)],
    )
    again = running.beginning(2)
    learn(again, *records[:1])
    learn(new, *records)
    running.become(again)
    learn(running, *records[1:])
    assert looked_up_in is running.interest_of
    assert running.interest_of == new.interest_of


def test_attributes_count_alike_whatever_their_order_and_item() -> None:
    decoder = decoder_of()
    for _ in range(3):
        found = decoded(
            decoder,
            {"item_id": "a", "attributes": {"colour": "2", "size": "s"}},
            {"item_id": "b", "attributes": {"size": "s", "colour": "2"}},
            {"item_id": "a", "attributes": {"colour": "1"}},
            {"item_id": "known", "attributes": {"colour": "0"}},
        )
        assert found == [2, 2, 1, 4]
