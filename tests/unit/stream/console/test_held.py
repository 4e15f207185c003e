"""What the console holds of the topics is bounded, and a user is held whole or not at all."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from state.bags import Bags
from state.periods import DAY
from state.record import Ledger, PartitionRecord, encode_record
from state.rows import RECORD_KEY, encode_keys, encode_values
from stream.console.held import Held
from stream.console.nearest import SpaceVectors
from stream.records.embedding_record import headers_of, shared_headers


def row(user: bytes, day: int, *, deleted: bool = False, partition: int = 0) -> Any:
    one = np.ones(1, np.int64)
    (key,) = encode_keys([user], 0 * one, DAY.code * one, day * one)
    (value,) = encode_values(day * one, day * one, Bags(np.array([0, 1]), np.ones(1, np.uint32), np.ones(1, np.uint32)))
    return SimpleNamespace(key=key, value=None if deleted else value, partition=partition)


def embedding(user: bytes, vector: list[float] | None, seq: int = 0, space: str = "space") -> Any:
    if vector is None:
        return SimpleNamespace(key=user, value=None, headers=[], partition=0)
    array, one = np.array([vector], "<f4"), np.ones(1, np.int64)
    (headers,) = headers_of(shared_headers("model", space, array.shape, "float32"), 0, 7, seq * one, seq * one)
    return SimpleNamespace(key=user, value=array.tobytes(), headers=headers, partition=0)


def days(held: Held, user: str) -> list[int]:
    return held.of_user(user).state.of_user(user.encode())[1].period.tolist()


def test_rows_come_and_go_and_whoever_changed_last_stands_first() -> None:
    held = Held(1 << 30)
    record = PartitionRecord("space", "day", next_offset=3, ledger=Ledger(3, 3, 0, 0))
    control = SimpleNamespace(key=RECORD_KEY, value=encode_record(record), partition=1)
    held.add_rows([row(b"ann", 1), row(b"bob", 1), row(b"ann", 2), control, row(b"ann", 1, deleted=True)])
    assert days(held, "ann") == [2]
    assert held.records() == {1: record}
    assert held.summary(5)["recent_users"] == ["ann", "bob"]
    held.add_rows([row(b"ann", 2, deleted=True)])
    assert held.summary(5)["recent_users"] == ["bob"]


def test_beyond_the_bound_fewer_users_are_held_each_with_every_row() -> None:
    users = [b"user-%d" % n for n in range(400)]
    for bytes_max in (1_000_000, 200_000, 2_500):
        held = Held(bytes_max)
        for day in range(5):
            held.add_rows([row(user, day) for user in users])
            held.add_embeddings([embedding(user, [1.0] * 8, day) for user in users])
            assert held.summary(0)["bytes"] <= bytes_max or not held.summary(0)["users"]
        kept = [user.decode() for user in users if held.holds(user.decode())]
        assert len(kept) == held.summary(0)["users"] < len(users)
        assert all(days(held, user) == [0, 1, 2, 3, 4] and len(held.of_user(user).embeddings) == 5 for user in kept)
        assert not any(days(held, user.decode()) for user in users if user.decode() not in kept)


def test_the_newest_embeddings_come_first_and_an_erasure_or_another_space_takes_the_vector_away() -> None:
    held = Held(1 << 30)
    held.add_embeddings([embedding(b"ann", [1, 0], seq) for seq in range(9)])
    held.add_embeddings([embedding(b"bob", [1, 1]), embedding(b"eve", [0, 1]), embedding(b"zoe", [1, 0])])
    ann = held.of_user("ann")
    assert [each.seq for each in ann.embeddings] == [8, 7, 6, 5, 4]
    found, n_compared = held.nearest("ann", ann, 2)
    assert [user for user, _ in found] == ["zoe", "bob"]
    assert [cosine for _, cosine in found] == pytest.approx([1, 2**-0.5])
    assert n_compared == 4
    held.add_embeddings([embedding(b"zoe", None), embedding(b"bob", [1, 1], 1, "other")])
    assert [user for user, _ in held.nearest("ann", ann, 2)[0]] == ["eve"]
    assert not held.of_user("zoe").embeddings


def test_what_is_no_embedding_of_ours_is_counted_and_stops_nobody() -> None:
    held = Held(1 << 30)
    foreign = SimpleNamespace(key=b"ann", value=b"x", headers=[], partition=0)
    held.add_embeddings([foreign, embedding(b"\xff", [1]), embedding(b"bob", [1])])
    assert (held.summary(5)["unreadable_embeddings"], held.summary(5)["recent_users"]) == (2, ["bob"])


def test_the_nearest_are_those_a_plain_search_finds_whatever_was_put_and_removed() -> None:
    rng = np.random.default_rng(3)
    space, plain = SpaceVectors(6), dict[bytes, np.ndarray]()
    for step in range(2000):
        user = b"u%d" % rng.integers(300)
        if rng.random() < 0.3:
            space.remove(user)
            plain.pop(user, None)
        else:
            plain[user] = rng.normal(size=6).astype(np.float32) * (step % 7)
            space.put(user, plain[user])
    space.shrink()
    wanted = rng.normal(size=6).astype(np.float32)
    lengths = {user: np.linalg.norm(vector) * np.linalg.norm(wanted) for user, vector in plain.items()}
    cosines = {user: float(vector @ wanted / lengths[user]) if lengths[user] else 0.0 for user, vector in plain.items()}
    best = sorted(cosines, key=lambda user: -cosines[user])
    found = space.nearest(best[0], wanted, 10)
    assert [user for user, _ in found] == best[1:11]
    assert [cosine for _, cosine in found] == pytest.approx([cosines[user] for user in best[1:11]], abs=1e-6)
    assert len(space) == len(plain)
