"""The incremental encode against the full one, on a real store: late events, turns of months, roll-ups, lost caches."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lurm_model.bundle import Bundle
from lurm_model.events import day_rows
from lurm_model.inference.incremental import IncrementalEncoder
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.bags import concat, sum_bags, sum_pairs
from state.caches import NONE, Caches
from state.dirty import MarkColumns
from state.history import resolve
from state.options import StoreOptions, StoreResources
from state.periods import DAY, MS_PER_DAY, parse_scales
from state.record import PartitionRecord, encode_record
from state.replay import Record
from state.rollup import roll_up
from state.rows import RECORD_KEY, Write, decode_values, encode_keys, encode_values
from state.store import BagStore, Changes
from stream.partition.encoding import encode_users

N_CLUSTERS, FIRST_DAY = 12, 20_000
SCALES = ["day", "day,month", "day,week,month", "day,quarter,year"]
RESOURCES = StoreResources(StoreOptions(cache_bytes=1 << 20, memtable_bytes=8 << 20))
USERS = [b"ann", b"bo", b"bob", "zoë".encode()]


def make_bundle(scales: str, seed: int = 0) -> Bundle:
    rng = np.random.default_rng(seed)
    book = Codebook(
        {}, np.eye(N_CLUSTERS, 8, dtype=np.float32), rng.random(N_CLUSTERS + 1).astype(np.float32), {},
        np.zeros((0, 8), np.float32),
    )  # fmt: skip
    names = tuple(scale.name for scale in parse_scales(scales))
    config = SmenConfig(N_CLUSTERS + 1, 8, FIRST_DAY + 60, names, n_vectors=5, n_recurrent=3, n_condensed=2, d_anchor=8)
    weights = {k: rng.normal(0, 0.5, v.shape).astype(np.float32) for k, v in Smen(config).state_dict().items()}
    return Bundle.build(config, book, weights, {}, {})


ENCODERS = {
    (scales, seed): IncrementalEncoder(make_bundle(scales, seed), "cpu") for scales in SCALES for seed in (0, 1)
}

Event = tuple[bytes, int, int, int]  # user, day, interest, count


class Partition:
    """What workers do to a partition, without Kafka: one owns it, another stands by with a store of its own."""

    def __init__(self, folder: Path, scales: str) -> None:
        self.scales, self.encoder = scales, ENCODERS[scales, 0]
        self.paths = [folder / "a", folder / "b"]
        self.stores = [BagStore(path, RESOURCES) for path in self.paths]
        self.owner, self.offset = 0, 0
        self.changelog: list[Record] = []
        self.published: dict[bytes, np.ndarray] = {}
        self.outcomes: Counter[str] = Counter()

    @property
    def store(self) -> BagStore:
        return self.stores[self.owner]

    def commit(self, rows: Sequence[Write], users: Sequence[bytes] = (), days: Sequence[int] = ()) -> Changes:
        """One transaction: what the changelog holds then, and the store must."""
        oldest = self.store.marks.oldest
        published = self.offset if oldest is None else oldest.first_seq
        seq = np.arange(self.offset, self.offset + len(users))
        self.offset += len(users)
        record = PartitionRecord("space", self.scales, self.offset, published=published)
        self.changelog += [*((key, value, 0) for key, value in rows), (RECORD_KEY, encode_record(record), 0)]
        marks = self.store.marks.add(users, MarkColumns(seq, seq, seq, np.array(days, np.int64)))
        return Changes(rows, record, len(self.changelog) - 1, marks)

    def merge(self, event: Event) -> Changes:
        user, day, interest, n = event
        (key,) = encode_keys([user], np.zeros(1, int), np.array([DAY.code]), np.array([day]))
        bags = [decode_values([value])[2] for value in self.store.get([key]) if value is not None]
        bags.append(sum_pairs(np.zeros(1, int), np.array([interest], np.uint32), np.array([n], np.uint32), 1))
        both = sum_bags(np.zeros(len(bags), int), concat(bags), 1)
        (value,) = encode_values(np.array([self.offset]), np.array([day]), both)
        return self.commit([(key, value)], [user], [day])

    def ingest(self, *events: Event) -> None:
        for event in events:
            self.store.apply(self.merge(event))

    def encode(self, n: int = 99, meanwhile: Sequence[Event] = ()) -> None:
        """One batch of an encode cycle, while events come."""
        taken = self.store.marks.take(n)
        self.publish(sorted(taken), np.array([taken[user].earliest_day for user in sorted(taken)], int), meanwhile)

    def sweep(self) -> None:
        users = self.store.users_after(b"", 99)
        self.publish(users, np.full(len(users), NONE))

    def publish(self, users: list[bytes], earliest_day: np.ndarray, meanwhile: Sequence[Event] = ()) -> None:
        if not users:
            return
        view, expected = self.store.view(), self.full(users)
        self.ingest(*meanwhile)
        encoded = encode_users(view, self.encoder, users, earliest_day)
        np.testing.assert_allclose(encoded.vectors, expected[0], rtol=1e-5, atol=1e-6)
        for found, wanted in zip((encoded.seq, encoded.event_time_ms), expected[1:], strict=True):
            assert found.tolist() == wanted.tolist()
        self.outcomes.update(encoded.outcomes)
        self.published |= dict(zip(users, encoded.vectors, strict=True))
        read, rows = self.store.read_users(list(encoded.to_roll_up))
        closed = np.array([encoded.to_roll_up[user] for user in read], np.int64)
        if writes := roll_up(read, rows, self.encoder.scales, closed):
            self.store.apply(replace(self.commit(writes), uncached=read))
        taken = [user for user in users if user in self.store.marks._taken]
        self.store.clear_marks(self.store.marks.publish(taken), encoded.caches)
        if not meanwhile:
            read, rows = self.store.read_users(users)
            assert not roll_up(read, rows, self.encoder.scales), "nobody has a day before the window"

    def full(self, users: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors, newest seq and newest event time by the rows alone."""
        found, rows = self.store.read_users(users)
        assert found == list(users)
        seq, time = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        np.maximum.at(seq, rows.user, rows.seq)
        np.maximum.at(time, rows.user, rows.event_time_ms)
        return self.encoder.encode(resolve(rows, self.encoder.scales, len(users)), len(users)), seq, time

    def lose_caches(self) -> None:
        for user in USERS:
            self.store._caches_db.delete(user)

    def restart(self) -> None:
        self.store.close()
        self.stores[self.owner] = BagStore(self.paths[self.owner], RESOURCES)
        self.recover()

    def crash(self, event: Event) -> None:
        """Killed between a transaction and its WriteBatch."""
        self.merge(event)
        self.restart()

    def hand_over(self) -> None:
        self.owner = 1 - self.owner
        self.recover()

    def recover(self) -> None:
        for start in range(self.store.changelog_offset + 1, len(self.changelog), 7):
            piece = self.changelog[start : start + 7]
            self.store.replay(piece, start + len(piece) - 1)
        self.store.marks.sort()

    def change_model(self) -> None:
        self.encoder = ENCODERS[self.scales, 1 if self.encoder is ENCODERS[self.scales, 0] else 0]
        self.sweep()


@contextmanager
def partition(scales: str = "day,month") -> Iterator[Partition]:
    with TemporaryDirectory() as folder:
        made = Partition(Path(folder), scales)
        yield made
        for store in made.stores:
            store.close()


# Mostly the days go on, with turns of months and years of absence; some events come late.
event = st.tuples(
    st.sampled_from(USERS),
    st.one_of(st.integers(0, 3), st.integers(-70, 70), st.sampled_from([-900, 31, 62, 400])),
    st.integers(0, N_CLUSTERS),
    st.integers(1, 5),
)
events = st.lists(event, min_size=1, max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ingest"), events),
        st.tuples(st.just("ingest"), events),
        st.tuples(st.just("encode"), st.integers(1, 4), st.just([]) | events),
        st.tuples(st.just("encode"), st.just(9), st.just([])),
        st.tuples(st.sampled_from(["lose_caches", "restart", "hand_over", "change_model", "note"])),
        st.tuples(st.just("crash"), event),
    ),
    max_size=25,
)


def run(made: Partition, step: tuple, today: int) -> int:
    """Take one step; events are dated from the newest day so far."""
    name, *arguments = step

    def dated(each: Event) -> Event:
        nonlocal today
        user, day, interest, n = each
        newest, today = today, max(today, today + day)
        return user, newest + day, interest, n

    if name == "ingest":
        made.ingest(*map(dated, arguments[0]))
    elif name == "encode":
        made.encode(arguments[0], [*map(dated, arguments[1])])
    elif name == "crash":
        made.crash(dated(arguments[0]))
    elif name == "note":
        made.store.apply(made.commit([]))
    else:
        getattr(made, name)()
    return today


@pytest.mark.parametrize("scales", SCALES)
@given(steps)
@settings(max_examples=20)
def test_whatever_happens_the_incremental_encode_equals_the_full_one(scales: str, history: list[tuple]) -> None:
    with partition(scales) as made:
        today = FIRST_DAY
        for step in history:
            today = run(made, step, today)
        made.encode()
        known = made.store.users_after(b"", 99)
        for user, expected in zip(known, made.full(known)[0] if known else (), strict=True):
            np.testing.assert_allclose(made.published[user], expected, rtol=1e-5, atol=1e-6)


def outcomes(made: Partition) -> dict[str, int]:
    """What became of the caches since last asked."""
    found = {name: n for name, n in made.outcomes.items() if n}
    made.outcomes.clear()
    return found


def days(user: bytes, *some: int) -> list[Event]:
    return [(user, FIRST_DAY + day, day % N_CLUSTERS, 1) for day in some]


def test_a_cache_is_used_until_an_older_day_the_model_or_the_disk_changes() -> None:
    with partition() as made:

        def encoded(*some: int) -> dict[str, int]:
            made.ingest(*days(b"ann", *some))
            made.encode()
            return outcomes(made)

        assert encoded(0, 1, 2) == {"miss": 1}
        assert encoded(2) == encoded(2, 3) == encoded(9) == {"hit": 1}
        assert encoded(4) == {"stale": 1}, "a day between, already closed"
        assert encoded(9) == {"hit": 1}
        made.restart()
        assert encoded(9) == {"hit": 1}
        made.change_model()
        assert outcomes(made) == {"stale": 1}
        assert encoded(9) == {"hit": 1}, "whoever was swept has a cache"
        made.lose_caches()
        assert encoded(9) == {"miss": 1}
        made.crash(days(b"ann", 9)[0])
        assert encoded(9) == {"miss": 1}, "the changelog was replayed"
        made.hand_over()
        made.hand_over()
        assert encoded(9) == {"hit": 1}, "the other owner changed nothing"
        made.hand_over()
        assert encoded(9) == {"miss": 1}, "caches are not in the changelog"
        made.hand_over()
        assert encoded(9) == {"miss": 1}, "the other owner changed something"


def test_the_turn_of_a_month_is_a_hit_and_still_rolls_up() -> None:
    with partition() as made:
        made.ingest(*days(b"ann", *range(0, 60, 3)))
        made.encode()
        outcomes(made)
        made.ingest(*days(b"ann", 65, 66))  # 2024-12-08: October leaves the window
        made.encode()
        assert outcomes(made) == {"hit": 1}
        made.ingest(*days(b"ann", 400))  # a year later everything does
        made.encode()
        assert outcomes(made) == {"hit": 1}
        assert len(made.store.read_users([b"ann"])[1]) == 4, "a day and three months"


def test_days_that_were_rolled_up_before_a_cache_took_them_in_are_not_forgotten() -> None:
    with partition() as made:
        made.ingest(*days(b"ann", 0, 1))
        made.encode()
        outcomes(made)
        made.ingest(*days(b"ann", 90))
        found, rows = made.store.read_users([b"ann"])
        made.store.apply(made.commit(roll_up(found, rows, made.encoder.scales)))
        made.restart()
        made.encode()
        assert outcomes(made) == {"stale": 1}


def test_who_was_published_by_another_owner_loses_the_cache_that_lacks_it() -> None:
    with partition() as made:
        made.ingest(*days(b"ann", 5, 6), *days(b"bob", 5, 6))
        made.encode()
        made.ingest(*days(b"ann", 1))  # late: our cache lacks it, our mark says so
        made.hand_over()
        made.encode()
        made.ingest(*days(b"bob", 6))
        made.encode()
        made.store.apply(made.commit([]))
        made.hand_over()  # what we had marked is below the watermark
        assert len(made.store.marks) == 0
        made.ingest(*days(b"ann", 7))
        made.encode()


def test_a_user_of_one_day_needs_no_cache() -> None:
    with partition() as made:
        made.ingest(*days(b"ann", 5, 5))
        made.encode()
        assert made.store.view().caches([b"ann"]) == [None]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_cuda_the_incremental_encode_equals_the_full_one_on_the_cpu_within_tf32() -> None:
    cpu, cuda = ENCODERS["day,month", 0], IncrementalEncoder(make_bundle("day,month"), "cuda")
    user, day, interest, n = np.random.default_rng(0).integers([0, 0, 0, 1], [20, 200, 12, 5], (800, 4)).T
    rows = day_rows(user, day * MS_PER_DAY, interest, n)
    caches = Caches.none(20, cuda.shape)
    expected = cpu.encode(resolve(rows, cpu.scales, 20), 20)
    vectors, caches = cuda.advance(caches, rows)
    np.testing.assert_allclose(vectors, expected, rtol=0.01, atol=0.01)
    again, _ = cuda.advance(caches, rows)
    np.testing.assert_allclose(again, expected, rtol=0.01, atol=0.01)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_cuda_threads_with_streams_of_their_own_encode_as_one_does_alone() -> None:
    cuda = IncrementalEncoder(make_bundle("day,month"), "cuda")
    user, day, interest, n = np.random.default_rng(0).integers([0, 0, 0, 1], [20, 200, 12, 5], (800, 4)).T
    rows = day_rows(user, day * MS_PER_DAY, interest, n)
    alone, _ = cuda.advance(Caches.none(20, cuda.shape), rows)
    with ThreadPoolExecutor(cuda.n_threads, initializer=cuda.use_own_stream) as threads:
        beside = threads.map(lambda _: cuda.advance(Caches.none(20, cuda.shape), rows)[0], range(50))
        for vectors in beside:
            np.testing.assert_allclose(vectors, alone, rtol=1e-3, atol=1e-4)
