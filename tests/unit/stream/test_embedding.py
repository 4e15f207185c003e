"""The record format of the embeddings topic, and which embeddings a consumer lets through."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from state.errors import FormatUnknown
from stream.embedding import (
    Embedding,
    EmbeddingConsumer,
    EmbeddingWriter,
    Erased,
    NewestSeq,
    decode,
    encode_value,
    shared_headers,
)
from stream.errors import ConfigInvalid


@dataclass
class Record:
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Batch(NamedTuple):
    users: list[bytes]
    vectors: np.ndarray
    seq: np.ndarray
    event_time_ms: np.ndarray


def _batch(n: int = 2) -> Batch:
    vectors = np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3)
    return Batch([b"u%d" % i for i in range(n)], vectors, np.arange(n) + 2**41, np.arange(n) - 5)


def _embedding(user: str, seq: int, model: str = "m") -> Embedding:
    return Embedding(user, np.zeros((1, 1), np.float32), seq, model, "s", 0, 0, 0)


def test_a_record_is_the_bytes_and_headers_that_readers_rely_on() -> None:
    record = EmbeddingWriter("m1", "s1", "float32").records(3, _batch(), 99)[1]
    assert record.key == b"u1"
    assert record.value == np.array([6, 7, 8, 9, 10, 11], "<f4").tobytes()
    assert dict(record.headers or ()) == {
        "lurm-format": b"1",
        "model_id": b"m1",
        "space_id": b"s1",
        "shape": b"2,3",
        "dtype": b"float32",
        "seq": b"2199023255553",
        "partition": b"3",
        "event_time_ms": b"-4",
        "encoded_at_ms": b"99",
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@given(vectors=arrays(np.float32, (2, 4, 5), elements=st.floats(-1000, 1000, width=16)))
def test_what_is_written_is_what_is_read(dtype: str, vectors: np.ndarray) -> None:
    batch = Batch(["Zoë".encode(), b"b"], vectors, np.array([5, 6]), np.array([7, 8]))
    written = EmbeddingWriter("m", "s", dtype).records(1, batch, 9)
    read = [decode(Record(key, value, headers or ())) for key, value, headers in written]
    assert all(isinstance(each, Embedding) for each in read)
    for i, each in enumerate(read):
        assert isinstance(each, Embedding)
        assert each.vectors.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(each.vectors, vectors[i])
        assert (each.seq, each.partition, each.event_time_ms, each.encoded_at_ms) == (5 + i, 1, 7 + i, 9)
    assert read[0].user_id == "Zoë"


def test_one_value_alone_is_the_value_of_a_batch() -> None:
    batch = _batch(1)
    assert (
        encode_value(batch.vectors[0], "float16") == EmbeddingWriter("m", "s", "float16").records(0, batch, 0)[0].value
    )


def test_the_norm_of_half_precision_does_not_overflow() -> None:
    embedding = Embedding("u", np.full((2, 2), 60_000, np.float16), 0, "m", "s", 0, 0, 0)
    assert embedding.norm == pytest.approx(2 * 59_968, rel=1e-3)


def test_a_null_value_means_erased() -> None:
    assert decode(Record(b"u", None, [])) == Erased("u")


@pytest.mark.parametrize("key", [None, b""])
@pytest.mark.parametrize("value", [None, b"", bytes(8)])
def test_a_record_without_a_key_erases_nobody(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(FormatUnknown, match="without a key"):
        decode(Record(key, value, []))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "format=none known=1"),
        ([("lurm-format", b"2")], "format=2 known=1"),
        ([("lurm-format", b"1")], "contradicts its headers: key=b'u' problem='shape'"),
        (shared_headers("m", "s", (2, 3), "float32"), "cannot reshape"),
        (shared_headers("m", "s", (1, 1), "float32"), "'seq'"),
        (shared_headers("m", "s", (1, 1), "int8"), "'int8'"),
    ],
)
def test_a_record_of_another_format_is_refused(headers: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(FormatUnknown, match=message):
        decode(Record(b"u", b"1234", headers))


def test_the_stored_record_of_format_1_keeps_being_read() -> None:
    lines = (Path(__file__).parent / "data" / "embedding-format-1.txt").read_text().splitlines()
    key, value, *headers = lines
    pairs = [(name, text.encode()) for name, _, text in (header.partition("=") for header in headers)]
    embedding = decode(Record(key.encode(), bytes.fromhex(value), pairs))
    assert isinstance(embedding, Embedding)
    assert embedding.vectors.tolist() == [[0.5, -1.0, 2.0], [0.0, 0.25, 1.0]]
    assert (embedding.user_id, embedding.seq, embedding.space_id) == ("ann", 1099511627780, "space")


def test_older_and_repeated_embeddings_are_no_news_but_another_model_is() -> None:
    newest = NewestSeq(10)
    assert newest.is_news(_embedding("a", 5))
    assert not newest.is_news(_embedding("a", 5))
    assert not newest.is_news(_embedding("a", 4))
    assert newest.is_news(_embedding("a", 5, model="m2"))
    assert newest.is_news(_embedding("b", 4))
    assert newest.is_news(_embedding("a", 6))


def test_an_erased_user_may_come_back() -> None:
    newest = NewestSeq(10)
    newest.is_news(_embedding("a", 5))
    newest.forget("a")
    assert newest.is_news(_embedding("a", 1))


def test_the_users_seen_longest_ago_are_forgotten_first() -> None:
    newest = NewestSeq(2)
    for user in ("a", "b", "a", "c"):
        newest.is_news(_embedding(user, 5))
    assert not newest.is_news(_embedding("a", 4)), "a was seen after b"
    assert newest.is_news(_embedding("b", 4)), "b was forgotten"


@pytest.mark.parametrize("brokers", ["", "a:1,,b:1", "a:1,"])
def test_addresses_that_are_none_are_named(brokers: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"setting kafka\.brokers: "):
        EmbeddingConsumer(brokers)
