"""What is read of fetched bytes, made as brokers and producers make them."""

import tracemalloc
from collections.abc import Sequence
from typing import Any, Literal, cast

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.batches.lenient import KafkaPythonBatch
from stream.kafka.batches.pieces import PIECE_BYTES, PIECE_RECORDS, RECORD_BYTES_MAX, TIMES_SENT
from stream.kafka.fetcher import Batches, PartitionRecords
from stream.records.arrival import NO_TIME_MS, LeftOut

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
MIB = 1 << 20
HERE = TopicPartition("events", 0)
Pair = tuple[bytes | None, bytes | None]


def batch_of(pairs: Sequence[Pair], codec: int = NONE, first_offset: int = 0, now_ms: int = 1000) -> bytes:
    made = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 30,
    )  # fmt: skip
    for i, (key, value) in enumerate(pairs):
        assert made.append(i, timestamp=now_ms + i, key=key, value=value, headers=[("trace", b"7")])
    raw = bytearray(made.build())
    raw[:8] = first_offset.to_bytes(8, "big")
    return bytes(raw)


def reading(data: bytes, offset: int = 0) -> PartitionRecords:
    return PartitionRecords(HERE, Batches(data), [], offset, None, None, True, READ_COMMITTED)


def taken_by(records: PartitionRecords, n: int | None = None, n_bytes: int = MIB) -> list[list[Any]]:
    """All there is, so much at once."""
    found: list[list[Any]] = []
    while not records.exhausted:
        found.append(records.take(n, n_bytes))
    return found


def pairs_of(records: Sequence[Any]) -> list[Pair]:
    return [(record.key, record.value) for record in records]


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
@pytest.mark.parametrize("n_bytes", [0, 100, 70_000])
def test_a_batch_larger_than_a_piece_is_read_whole_and_a_piece_at_a_time(codec: int, n_bytes: int) -> None:
    pairs = [(b"user-%d" % i, b"%d" % i + b"x" * n_bytes) for i in range(60_000 if n_bytes < 1000 else 200)]
    records = reading(batch_of(pairs, codec, first_offset=70), offset=70)
    parts = taken_by(records, 25_000)
    found = [record for part in parts for record in part]
    assert pairs_of(found) == pairs
    assert [record.offset for record in found] == list(range(70, 70 + len(pairs)))
    assert [record.timestamp for record in found] == list(range(1000, 1000 + len(pairs)))
    assert {tuple(record.headers) for record in found} == {(("trace", b"7"),)}
    assert records.next_fetch_offset == 70 + len(pairs)
    assert max(map(len, parts)) <= 25_000
    if codec:
        assert max(sum(len(record.value) for record in part) for part in parts) <= MIB + PIECE_BYTES + n_bytes


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_of_gigabytes_is_read_in_pieces_and_may_not_be_sent_on_whole(codec: int) -> None:
    raw = batch_of([(b"user-1", b"x" * 60_000)] * 2_000, codec)
    records, n, to_send_on = reading(raw), 0, 0
    tracemalloc.start()
    while not records.exhausted:
        part = records.take(20_000, 4 * MIB)
        n += len(part)
        to_send_on += part.to_send_on
    assert tracemalloc.get_traced_memory()[1] < 30 * MIB
    tracemalloc.stop()
    assert (n, records.next_fetch_offset) == (2_000, 2_000)
    assert to_send_on <= TIMES_SENT * len(raw)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_record_larger_than_any_that_is_meant_is_left_out_and_its_neighbours_are_read(codec: int) -> None:
    large = b"x" * (RECORD_BYTES_MAX + 5)
    pairs = [(b"a", b"1"), (b"b", large), (b"c", b"3"), (None, large), (b"k" * MIB, large), (b"d", b"4")]
    (found,) = taken_by(reading(batch_of(pairs, codec)), n_bytes=1 << 30)
    assert [record.offset for record in found] == list(range(6))
    assert [record.timestamp for record in found] == list(range(1000, 1006))
    assert [record.key for record in found] == [b"a", b"b", b"c", None, None, b"d"]
    assert [record.value for record in found] == [b"1", b"", b"3", b"", b"", b"4"]
    assert [record.value.n_bytes > len(large) for record in found if isinstance(record.value, LeftOut)] == [True] * 3


@given(
    st.lists(st.tuples(st.none() | st.binary(max_size=3), st.none() | st.binary(max_size=300)), min_size=1),
    st.sampled_from([NONE, GZIP, SNAPPY, LZ4, ZSTD]),
    st.integers(1, 7),
    st.data(),
)
def test_whoever_goes_on_where_the_last_part_ended_misses_and_doubles_nothing(
    pairs: list[Pair], codec: int, n: int, data: st.DataObject
) -> None:
    raw = batch_of(pairs, codec) + batch_of(pairs, codec, first_offset=len(pairs))
    found: list[Any] = []
    records = reading(raw)
    while not records.exhausted:
        found += records.take(n, MIB)
        if data.draw(st.booleans()):
            records = reading(raw, records.next_fetch_offset)
    assert pairs_of(found) == pairs * 2
    assert [record.offset for record in found] == list(range(2 * len(pairs)))


def test_a_batch_of_a_great_many_tiny_records_is_cut_by_their_number() -> None:
    records = reading(batch_of([(None, None)] * 50_000, ZSTD))
    parts = taken_by(records, n_bytes=1)
    assert max(map(len, parts)) <= PIECE_RECORDS
    assert sum(map(len, parts)) == 50_000


def old_batch(magic: Literal[0, 1], codec: int, values: Sequence[bytes]) -> bytes:
    made = LegacyRecordBatchBuilder(magic, codec, 1 << 30)
    for i, value in enumerate(values):
        made.append(i, timestamp=5, key=b"user-1", value=value)
    return bytes(made.build())


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY])
def test_records_of_the_oldest_format_have_no_time(codec: int) -> None:
    for magic, timestamp in cast("tuple[tuple[Literal[0, 1], int], ...]", ((0, NO_TIME_MS), (1, 5))):
        found = [record for part in taken_by(reading(old_batch(magic, codec, [b"1", b"2"]))) for record in part]
        assert pairs_of(found) == [(b"user-1", b"1"), (b"user-1", b"2")]
        assert [(record.offset, record.timestamp, record.headers) for record in found] == [
            (0, timestamp, ()),
            (1, timestamp, ()),
        ]


@pytest.mark.parametrize(("magic", "codec"), [(0, GZIP), (1, GZIP), (1, SNAPPY), (1, LZ4)])
def test_a_bomb_of_an_old_format_is_left_out(magic: Literal[0, 1], codec: int) -> None:
    raw = old_batch(magic, codec, [b"x" * MIB] * 40)
    (found,) = taken_by(reading(raw))
    assert [(record.key, record.value) for record in found] == [(None, b"")]
    assert isinstance(found[0].value, LeftOut)


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_the_commands_read_a_bomb_in_pieces_too(codec: int) -> None:
    pairs = [(b"a", b"1"), (b"b", b"x" * (RECORD_BYTES_MAX + 5)), *[(b"c", b"x" * 60_000)] * 1_000]
    batch = KafkaPythonBatch(batch_of(pairs, codec, first_offset=7))
    tracemalloc.start()
    found = [(each.offset, each.key, len(each.value), each.timestamp, list(each.headers)) for each in batch]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each[:2] for each in found] == [(7 + i, key) for i, (key, _) in enumerate(pairs)]
    assert [each[3] for each in found] == list(range(1000, 1000 + len(pairs)))
    if codec:
        assert found[1][2:] == (0, 1001, [])
        assert peak < 30 * MIB
