"""Users encoded again per second: from the hidden cache, beside in full from all rows, in the same run.

Every user has ``months`` of rolled-up life and 30 days, then one more event today: the common case of a re-encode. Both
sides are measured with and without what they read from RocksDB (rows and caches, decoded), and alternate.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch

from lurm_model.bundle import Bundle
from lurm_model.inference.incremental import IncrementalEncoder
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.bags import sum_pairs
from state.caches import NONE, decode_caches
from state.history import resolve
from state.options import StoreOptions, StoreResources
from state.periods import DAY, MONTH, Int64, Scale
from state.record import PartitionRecord
from state.rows import Write, encode_keys, encode_values
from state.store import BagStore, Changes
from stream.partition.encoding import encode_users, leave_a_core

N_INTERESTS, D_ITEM = 100_000, 64
TODAY = 20_058  # 2024-12-01 is day 20058: all of November is in the window
INTERESTS_A_MONTH, INTERESTS_A_DAY = 30, 5
BATCH_USERS = 1024
LIVES_MONTHS = (1, 12, 120)


def encoder() -> IncrementalEncoder:
    """An untrained model of full size: its speed does not depend on its training."""
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(N_INTERESTS, D_ITEM)).astype(np.float32)
    book = Codebook({}, centroids, np.ones(N_INTERESTS + 1, np.float32), {}, np.zeros((0, D_ITEM), np.float32))
    config = SmenConfig(book.n_interests, D_ITEM, TODAY)
    smen = Smen(config)
    torch.nn.init.normal_(smen.anchors.interests)
    weights = {name: tensor.numpy() for name, tensor in smen.state_dict().items()}
    return IncrementalEncoder(Bundle.build(config, book, weights, {}, {}), "auto")


def rows(users: list[bytes], scale: Scale, periods: Int64, n_interests: int) -> list[Write]:
    """One row per user and period, with this many interests."""
    n = len(users) * len(periods)
    interests = np.random.default_rng(len(periods)).integers(0, N_INTERESTS, n * n_interests).astype(np.uint32)
    bags = sum_pairs(np.repeat(np.arange(n), n_interests), interests, np.ones(n * n_interests, np.uint32), n)
    user, period = np.repeat(np.arange(len(users)), len(periods)), np.tile(periods, len(users))
    keys = encode_keys(users, user, np.full(n, scale.code), period)
    return list(zip(keys, encode_values(np.zeros(n, np.int64), np.zeros(n, np.int64), bags), strict=True))


class Rate(NamedTuple):
    """Users per second by the clock, and per second of one core: on a busy machine only the latter repeats."""

    clock: float
    core: float


class Lives:
    """A store of users with equally long lives, all dirty with one more event of today."""

    def __init__(self, path: Path, model: IncrementalEncoder, n_users: int, months: int) -> None:
        self.store = BagStore(path, StoreResources(StoreOptions()))
        self.model = model
        users = sorted(b"user-%07d" % i for i in range(n_users))
        self.batches = [users[i : i + BATCH_USERS] for i in range(0, n_users, BATCH_USERS)]
        month = int(MONTH.of_day(np.array([TODAY]))[0])
        for batch in self.batches:
            self.apply(rows(batch, MONTH, np.arange(month - 1 - months, month - 1), INTERESTS_A_MONTH))
            self.apply(rows(batch, DAY, np.arange(TODAY - 29, TODAY + 1), INTERESTS_A_DAY))
            encoded = encode_users(self.store.view(), model, batch, np.full(len(batch), NONE))
            self.store.clear_marks([], encoded.caches)

    def apply(self, writes: list[Write]) -> None:
        self.store.apply(Changes(writes, PartitionRecord("space", "day,month"), 0))

    def incremental(self) -> Iterator[Callable[[], object]]:
        """Reads and encodes a batch."""
        for batch in self.batches:
            yield partial(self._changed, batch, TODAY)

    def incremental_alone(self) -> Iterator[Callable[[], object]]:
        """Encodes a batch that was read."""
        for batch in self.batches:
            view = self.store.view()
            caches = decode_caches(view.caches(batch), self.model.shape)
            newer, holds = view.rows(batch, caches, windowed=True)
            assert holds.all()
            yield partial(self.model.advance, caches, newer)

    def full(self) -> Iterator[Callable[[], object]]:
        """Reads and encodes a batch in full."""
        for batch in self.batches:
            yield partial(self._full, batch)

    def full_alone(self) -> Iterator[Callable[[], object]]:
        """Encodes in full a batch that was read."""
        for batch in self.batches:
            periods = resolve(self.store.read_users(batch)[1], self.model.scales, len(batch))
            yield partial(self.model.encode, periods, len(batch))

    def _changed(self, batch: list[bytes], day: int) -> object:
        return encode_users(self.store.view(), self.model, batch, np.full(len(batch), day))

    def _full(self, batch: list[bytes]) -> object:
        found, stored = self.store.read_users(batch)
        return self.model.encode(resolve(stored, self.model.scales, len(found)), len(found))

    def tomorrow(self) -> Iterator[Callable[[], object]]:
        """Reads and encodes a batch whose users come back a day later: today is closed."""
        for batch in self.batches:
            self.apply(rows(batch, DAY, np.array([TODAY + 1]), INTERESTS_A_DAY))
            yield partial(self._changed, batch, TODAY + 1)

    def rate(self, pieces: Iterator[Callable[[], object]], n_batches: int | None = None) -> Rate:
        """Users per second over these pieces of work; what prepares them does not count."""
        n, spent_s, spent_cpu_s = 0, 0.0, 0.0
        for batch, piece in zip(self.batches[:n_batches], pieces, strict=False):
            start, start_cpu = perf_counter(), process_time()
            piece()
            spent_s, spent_cpu_s = spent_s + perf_counter() - start, spent_cpu_s + process_time() - start_cpu
            n += len(batch)
        return Rate(n / spent_s, n / spent_cpu_s)


def run(n_events: int, rounds: int) -> None:
    """Print every side's median and its ratio to the full encode."""
    n_users = max(2 * BATCH_USERS, min(8 * BATCH_USERS, n_events // 100))
    n_threads = leave_a_core()
    model = encoder()
    print(f"\nencode: D {N_INTERESTS:,}, H 64, M 10, {model.device}, {n_threads} thread(s), as a worker here, batches "
          f"of {BATCH_USERS}, {n_users:,} users of 24 months ({INTERESTS_A_MONTH} interests each) and 30 days "
          f"({INTERESTS_A_DAY})")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        _beside_full(Lives(Path(name) / "two-years", model, n_users, 24), rounds)
        few = max(BATCH_USERS, n_users // 4)
        lives = {months: Lives(Path(name) / f"{months}", model, few, months) for months in LIVES_MONTHS}
        _by_length(lives, rounds)


def _beside_full(lives: Lives, rounds: int) -> None:
    sides = {
        "full, encode alone": (lives.full_alone, 2),
        "full, with its reads": (lives.full, 2),
        "incremental, encode alone": (lives.incremental_alone, None),
        "incremental, with its reads": (lives.incremental, None),
    }
    rates: dict[str, list[Rate]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (pieces, n_batches) in sides.items():
            rates[name].append(lives.rate(pieces(), n_batches))
    alone, read = list(rates.values())[:2]
    # Last and once: the rows of tomorrow stay, and would give the others a day to close.
    rates["incremental, with its reads, first event of a day"] = [lives.rate(lives.tomorrow())]
    for name, some in rates.items():
        _report(name, some, alone if "alone" in name else read)
    lives.store.close()


def _by_length(lives: dict[int, Lives], rounds: int) -> None:
    rates: dict[int, list[Rate]] = {months: [] for months in lives}
    for _ in range(rounds):
        for months, each in lives.items():
            rates[months].append(each.rate(each.incremental()))
    print("incremental, with its reads, by length of life; the ratio is to the shortest")
    for months, some in rates.items():
        _report(f"{months} months", some, rates[LIVES_MONTHS[0]])
        lives[months].store.close()


def _report(name: str, rates: list[Rate], peer: list[Rate]) -> None:
    """The medians, with their ratio to the peer's."""
    (clock, core), (peer_clock, peer_core) = (map(statistics.median, zip(*each, strict=True)) for each in (rates, peer))
    runs = " ".join(f"{rate.clock / 1000:.1f}" for rate in rates)
    print(f"{name:50} {clock:>8,.0f} users/s ({clock / peer_clock:.2f} x)  {core:>8,.0f} per core and second "
          f"({core / peer_core:.2f} x)  (runs in k/s: {runs})")  # fmt: skip
