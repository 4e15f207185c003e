from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rocksdict import Rdict

import state.options
from state.bags import sum_pairs
from state.caches import NONE, Caches, CacheShape, decode_caches, encode_caches
from state.options import CACHES, MARKS, META, ROWS, StoreOptions, StoreResources
from state.store import BagStore

SHAPE = CacheShape(b"model-01", 2, 2, 3)
OTHER = CacheShape(b"model-02", 2, 2, 5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BagStore]:
    store = BagStore(tmp_path / "partition-0", StoreResources(StoreOptions()))
    yield store
    store.close()


def some_caches(n: int, shape: CacheShape = SHAPE) -> Caches:
    """Caches of n users, different in every field; the first scale has no bags, as the day's."""
    rng = np.random.default_rng(n)
    caches = Caches.none(n, shape)
    size = rng.integers(0, 4, n)
    owners = np.repeat(np.arange(n) * shape.n_scales + 1, size)
    bags = sum_pairs(owners, rng.integers(0, 2**32, len(owners)).astype(np.uint32), owners.astype(np.uint32) + 1, 2 * n)
    for name in ("closed_day", "window_start", "seq", "last_period", "n_events", "vectors"):
        caches.head[name] = rng.integers(-1000, 1000, caches.head[name].shape)
    caches.head["n_pairs"] = np.diff(bags.offsets).reshape(n, shape.n_scales)
    return Caches(caches.head, bags)


def equal(first: Caches, second: Caches) -> bool:
    return encode_caches(first) == encode_caches(second)


@given(st.lists(st.sampled_from(["none", "other", "fits"]), max_size=8))
def test_only_a_cache_with_the_same_tag_is_read(kinds: list[str]) -> None:
    n = len(kinds)
    written: dict[str, Sequence[bytes | None]] = {
        "fits": encode_caches(some_caches(n)),
        "other": encode_caches(some_caches(n, OTHER)),
        "none": [None] * n,
    }
    caches = decode_caches([written[kind][i] for i, kind in enumerate(kinds)], SHAPE)
    fits = np.array([kind == "fits" for kind in kinds], bool)
    assert equal(caches, some_caches(n).without(~fits, SHAPE))
    assert ((caches.closed_day != NONE) == fits).all()


@given(st.permutations(range(5)), st.integers(0, 5))
def test_caches_are_replaced_one_by_one(order: list[int], n: int) -> None:
    caches, others = some_caches(5), encode_caches(some_caches(6))[:n]
    users = np.array(order[:n], np.int64)
    expected: list[bytes | None] = list(encode_caches(caches))
    for user, value in zip(users.tolist(), others, strict=True):
        expected[user] = value
    assert encode_caches(caches.replace(users, decode_caches(others, SHAPE))) == expected
    assert encode_caches(caches.take(users)) == [encode_caches(caches)[user] for user in order[:n]]


def test_the_first_format_of_a_cache_is_the_one_documented() -> None:
    caches = Caches.none(1, CacheShape(b"model-01", 1, 1, 2))
    for name, value in (("closed_day", 5), ("window_start", 4), ("seq", 3), ("life_norm_sq", 0.5), ("last_period", 2)):
        caches.head[name] = value
    for name, value in (("active", 6), ("n_pairs", 1), ("n_events", 7), ("norm_sq", 2.0)):
        caches.head[name] = value
    caches.head["vectors"] = [1, 2]
    bag = sum_pairs(np.zeros(1, int), np.array([9], np.uint32), np.array([7], np.uint32), 1)
    (cache,) = encode_caches(Caches(caches.head, bag))
    words = ["6d6f64656c2d3031", "0500000000000000", "0400000000000000", "0300000000000000", "000000000000e03f"]
    words += ["0200000000000000", "0000000000000080", "0600000000000000", "0100000000000000", "0700000000000000"]
    words += ["0000000000000040"]
    assert cache.hex() == "".join([*words, "0000803f", "00000040", "09000000", "07000000"])


def test_caches_are_stored_with_the_marks_that_they_answer_and_survive_a_restart(store: BagStore) -> None:
    store.clear_marks([(b"bob", None)], [(b"ann", b"1"), (b"bob", b"2"), (b"carl", b"3")])
    store.clear_marks([], [(b"bob", None)])
    before = store.view()
    store.clear_marks([], [(b"ann", b"4")])
    assert before.caches([b"ann", b"bob", b"carl"]) == [b"1", None, b"3"], "a view shows one instant"
    assert store.view().caches([b"an", b"ann", b"zoe"]) == [None, b"4", None]


def test_a_store_from_before_there_were_caches_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, resources = tmp_path / "partition-0", StoreResources(StoreOptions())
    monkeypatch.setattr(state.options, "COLUMN_FAMILIES", (ROWS, MARKS, META))
    old = state.options.open_database(path, resources)
    old.get_column_family(META).put(b"format", b"1")
    old.close()
    del old
    assert CACHES not in Rdict.list_cf(str(path))
    monkeypatch.undo()
    for _ in range(2):
        store = BagStore(path, resources)
        store.clear_marks([], [(b"ann", b"1")])
        assert store.view().caches([b"ann"]) == [b"1"]
        store.close()
