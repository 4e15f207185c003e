"""Vectors that overflow although every weight is a number: they are counted and never published, and hold nobody up."""

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from state.periods import MS_PER_DAY
from stream.partition.encoding import EncodedUsers
from stream.records.embedding_record import EmbeddingWriter
from stream.settings import Encode, Settings, Topics
from stream.testing import Harness, tiny_bundle
from stream.testing.bundle import FIRST_DAY

GOOD = tiny_bundle()


def scaled(factor: float) -> Bundle:
    """The good model, whose last matrices multiply everything."""
    weights = {name: (w * np.float32(factor)).clip(-3e38, 3e38) for name, w in GOOD.weights.items()}
    return Bundle.build(GOOD.config, GOOD.codebook, weights, {}, {})


def send(harness: Harness, *users: str) -> None:
    for day in range(3):
        harness.send(*({"user_id": user, "item_id": "item-1", "ts": (FIRST_DAY + day) * MS_PER_DAY} for user in users))


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1e30), ("float16", 1e9)])
def test_vectors_that_are_no_numbers_are_counted_and_never_published(dtype: str, factor: float) -> None:
    given = Settings(topics=Topics(partitions=1), encode=Encode(dtype=dtype))
    with Harness(scaled(factor), given) as harness:
        refused = harness.metrics.publishing.refused._value
        send(harness, "ann", "bob")
        harness.encode()
        assert [harness.embedding(user) for user in ("ann", "bob")] == [None, None]
        assert refused.get() == 2
        harness.encode()
        assert refused.get() == 2, "nobody is encoded again for ever"
        send(harness, "ann")
        harness.encode()
        assert refused.get() == 3
        harness.restart(GOOD)
        harness.encode()
        assert all(harness.embedding(user) is not None for user in ("ann", "bob"))
        assert refused.get() == 3


def test_a_user_whose_vectors_are_numbers_is_published_beside_others_whose_are_not() -> None:
    vectors = np.ones((3, 2, 2), np.float32)
    vectors[0, 1, 1], vectors[2, 0, 0] = 70_000, np.nan
    caches = [(b"ann", b"a"), (b"bob", b"b"), (b"cid", None)]
    batch = EncodedUsers([b"ann", b"bob", b"cid"], vectors, np.arange(3), np.arange(3), {b"ann": 5}, caches)
    for dtype, refused in (("float32", {b"cid"}), ("float16", {b"ann", b"cid"})):
        only = batch.only(EmbeddingWriter("model", "space", dtype).are_numbers(vectors))
        assert only.refused == refused
        assert only.users == [user for user in batch.users if user not in refused]
        assert len(only.vectors) == len(only.seq) == len(only.event_time_ms) == len(only.users)
        assert np.isfinite(only.vectors).all()
        assert only.to_roll_up == {b"ann": 5}
        expected = {user: value for user, value in caches if user not in refused} | dict.fromkeys(refused)
        assert dict(only.caches) == expected
