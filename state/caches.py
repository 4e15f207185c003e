"""The hidden caches of users: what an encoder knows of all days up to a closed one, so that only newer rows are read.

Value, little-endian: the fields of `CacheShape.dtype`, the tag first, then the pairs (interest uint32, count uint32)
of the open bags, scale by scale. The tag names format, model and device; a cache with another tag is none. Caches
can be derived from the rows, so they are in no changelog, and their format may change without notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state.bags import Bags, concat
from state.periods import Int64
from state.rows import PAIR

VERSION: Final = 5
# Neither a day nor a period: the user has no cache, the scale has no such period.
NONE: Final = int(np.iinfo(np.int64).min)
_TAG_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The caches of one encoder: their tag (8 bytes), its number of scales, and what it keeps per user.

    ``n_sums`` is how many sums over the life have a norm of their own, ``n_floats`` how many float32 there are.
    """

    tag: bytes
    n_scales: int
    n_sums: int
    n_floats: int

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The fixed part of a value; see `Caches` for what the fields say."""
        per_scale = (self.n_scales,)
        return np.dtype(
            [
                ("tag", f"V{_TAG_BYTES}"),
                ("closed_day", "<i8"),
                ("window_start", "<i8"),
                ("seq", "<i8"),
                ("life_norm_sq", "<f8", (self.n_sums,)),
                ("last_period", "<i8", per_scale),
                ("open_period", "<i8", per_scale),
                ("active", "<i8", per_scale),
                ("n_pairs", "<i8", per_scale),
                ("n_events", "<i8", per_scale),
                ("norm_sq", "<f8", per_scale),
                ("vectors", "<f4", (self.n_floats,)),
            ]
        )


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches of n users, S scales; users without one have ``closed_day`` `NONE` and nothing else.

    ``head`` is a structured array [n]. ``closed_day``: rows of days up to it are not needed, neither are coarse rows;
    ``window_start``: of the user's window; ``seq``: newest of those rows; ``last_period``: the scale's last closed
    period; ``open_period``: the one that goes on after the closed day, if any of its days are closed, with its
    ``n_events``, squared norm and active days so far and its bag, ``bags[user * S + scale]``. ``vectors`` are the
    encoder's own.
    """

    head: NDArray[np.void]
    bags: Bags

    def __len__(self) -> int:
        return len(self.head)

    @classmethod
    def none(cls, n: int, shape: CacheShape) -> "Caches":
        """Of n users without a cache."""
        return cls(np.repeat(_no_cache(shape), n), Bags.empty(n * shape.n_scales))

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """Whether nothing is closed, so that a cache is not worth storing: bool[n]."""
        empty: NDArray[np.bool_] = np.all(
            (self.head["last_period"] == NONE) & (self.head["open_period"] == NONE), axis=1
        )
        return empty

    @property
    def closed_day(self) -> Int64:
        """int64[n]."""
        return np.asarray(self.head["closed_day"], np.int64)

    @property
    def n_scales(self) -> int:
        """S."""
        return int(self.head.dtype["n_pairs"].shape[0])

    def take(self, users: Int64) -> "Caches":
        """The caches of these users, in this order."""
        return Caches(self.head[users], self.bags.take(self._bags_of(users)))

    def replace(self, users: Int64, others: "Caches") -> "Caches":
        """The same with the caches of these users replaced by the others, one each."""
        if len(users) == len(self):
            return others.take(np.argsort(users))
        source = np.arange(len(self))
        source[users] = len(self) + np.arange(len(users))
        both = Caches(np.concatenate([self.head, others.head]), concat([self.bags, others.bags]))
        return both.take(source)

    def without(self, users: NDArray[np.bool_], shape: CacheShape) -> "Caches":
        """The same where the marked users have none."""
        return self.replace(np.flatnonzero(users), Caches.none(int(users.sum()), shape)) if users.any() else self

    def _bags_of(self, users: Int64) -> Int64:
        return (users[:, None] * self.n_scales + np.arange(self.n_scales)).ravel()


def encode_caches(caches: Caches) -> list[bytes]:
    """The value of every cache."""
    fixed = caches.head.tobytes()
    pairs = np.empty(len(caches.bags.interests), PAIR)
    pairs["interest"], pairs["count"] = caches.bags.interests, caches.bags.counts
    raw, width = pairs.tobytes(), caches.head.dtype.itemsize
    ends = (caches.bags.offsets[:: caches.n_scales] * PAIR.itemsize).tolist()
    return [fixed[user * width : (user + 1) * width] + raw[ends[user] : ends[user + 1]] for user in range(len(caches))]


def decode_caches(values: Sequence[bytes | None], shape: CacheShape) -> Caches:
    """The inverse of `encode_caches`; a value with another tag is no cache, and None is none."""
    none, width = _no_cache(shape).tobytes(), shape.dtype.itemsize
    known = [none if value is None or value[:_TAG_BYTES] != shape.tag else value for value in values]
    head = np.frombuffer(b"".join([value[:width] for value in known]), shape.dtype)
    pairs = np.frombuffer(b"".join([value[width:] for value in known]), PAIR)
    offsets = np.concatenate([[0], np.cumsum(head["n_pairs"].ravel())]).astype(np.int64)
    return Caches(head, Bags(offsets, pairs["interest"].astype(np.uint32), pairs["count"].astype(np.uint32)))


def _no_cache(shape: CacheShape) -> NDArray[np.void]:
    head = np.zeros(1, shape.dtype)
    head["tag"] = np.void(shape.tag)
    for name in ("closed_day", "window_start", "last_period", "open_period"):
        head[name] = NONE
    return head
