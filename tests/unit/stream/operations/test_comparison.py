from state.record import PartitionRecord
from state.walk import Output, Walk
from stream.operations.comparison import unexplained
from stream.operations.replay import State

HERE = Output("model", "embeddings", "id")
ALL_PUBLISHED = PartitionRecord("space", "day", published=100).publishing(HERE, None)
ROW_OF = {user: user + b"\0tail5" for user in (b"ann", b"bob", b"eve")}


def state(*partitions: tuple[PartitionRecord, set[bytes]]) -> State:
    rows = {n: {ROW_OF[user]: b"" for user in users} for n, (_, users) in enumerate(partitions)}
    return State(rows, {n: record for n, (record, _) in enumerate(partitions)})


def test_whoever_is_below_the_watermark_should_have_been_published() -> None:
    found = state((ALL_PUBLISHED, {b"ann", b"bob", b"eve"}))
    assert unexplained({b"ann": 99, b"bob": 100}, found, HERE) == [b"ann"]


def test_a_user_of_several_partitions_is_named_once() -> None:
    found = state((ALL_PUBLISHED, {b"eve", b"ann"}), (ALL_PUBLISHED, {b"eve", b"bob"}))
    assert unexplained({b"ann": 1, b"bob": 1, b"eve": 1}, found, HERE) == [b"ann", b"bob", b"eve"]


def test_a_walk_explains_whom_it_has_not_reached() -> None:
    walking = ALL_PUBLISHED.publishing(HERE, Walk(HERE, b"bob"))
    assert unexplained({b"ann": 1, b"bob": 1, b"eve": 1}, state((walking, set(ROW_OF))), HERE) == [b"ann", b"bob"]


def test_another_model_of_the_record_explains_everybody_and_another_topic_nobody() -> None:
    found = state((ALL_PUBLISHED, {b"ann"}))
    assert unexplained({b"ann": 1}, found, Output("other", "embeddings", "id")) == []
    assert unexplained({b"ann": 1000}, found, Output("model", "renamed", "id")) == [b"ann"]
