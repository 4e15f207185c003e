"""From the bags of a batch of users to tensors: the only place where numpy becomes torch.

Everything about a period here is a function of that period and the one before it, never of the life, so that
whatever enters the recurrence can be cached (our decision).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lurm_model.interests.weighting import Float32, bag_weights
from lurm_model.smen.config import SmenConfig
from state.bags import Bags
from state.history import ScaleBags
from state.periods import Int64, Scale

Float64 = NDArray[np.float64]

N_FEATURES = 7


class Sequences(NamedTuple):
    """Sequences of periods as torch packs them; see `ScaleBatch`."""

    packed: Tensor
    batch_sizes: Tensor
    users: Tensor


@dataclass(frozen=True, slots=True)
class ScaleBatch:
    """The periods of one scale of n users, with k periods of nnz pairs.

    **Shapes**: indices int64[nnz], weights float32[nnz], offsets int64[k + 1], norm_sq float32[k], features
    float32[k, N_FEATURES]; the sequences as torch packs them: packed int64[k] (periods by step, longest user first),
    batch_sizes int64[steps], users int64[u] (who stands in each place; users without periods have none).
    """

    indices: Tensor
    weights: Tensor
    offsets: Tensor
    norm_sq: Tensor
    features: Tensor
    packed: Tensor
    batch_sizes: Tensor
    users: Tensor

    def to(self, device: str) -> Self:
        """The same on a device; ``batch_sizes`` stays, torch wants it on the CPU."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        stays = {"batch_sizes": columns.pop("batch_sizes")}
        return type(self)(**stays, **{name: to_device(column, device) for name, column in columns.items()})


@dataclass(frozen=True, slots=True)
class LifeBatch:
    """What n users' sums over their lives are made of: the pairs of the coarsest scale, which holds each event once.

    **Shapes**: for G kinds of sums (`SmenConfig.kinds_of_sums`): weights float32[G, nnz], offsets int64[n + 1] (the
    pairs of a user's whole life), norm float32[n, G], of the whole life under these weights.
    """

    weights: Tensor
    offsets: Tensor
    norm: Tensor

    def to(self, device: str) -> Self:
        """The same on a device."""
        return type(self)(*(to_device(getattr(self, field.name), device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Batch:
    """n users, every scale, and the life as a whole."""

    n_users: int
    scales: Mapping[str, ScaleBatch]
    life: LifeBatch

    def to(self, device: str) -> "Batch":
        """The same on a device."""
        scales = {name: scale.to(device) for name, scale in self.scales.items()}
        return Batch(self.n_users, scales, self.life.to(device))


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The same on a device; from pinned memory, so that the copy does not wait."""
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def user_range(periods: ScaleBags, start: int, stop: int) -> ScaleBags:
    """The periods of the users ``start .. stop - 1``, renumbered from 0."""
    a, b = np.searchsorted(periods.user, [start, stop])
    offsets = periods.bags.offsets[a : b + 1]
    pairs = slice(int(offsets[0]), int(offsets[-1]))
    bags = Bags(offsets - offsets[0], periods.bags.interests[pairs], periods.bags.counts[pairs])
    return ScaleBags(periods.user[a:b] - start, periods.period[a:b], periods.active[a:b], bags)


def collate(periods: Mapping[str, ScaleBags], n_users: int, config: SmenConfig, idf: Float32) -> Batch:
    """The tensors of all users of these periods."""
    scales = {}
    for scale in config.scale_objects:
        found = periods[scale.name]
        weights = bag_weights(found.bags, idf)
        norm_sq = segment_sum(weights.astype(np.float64) ** 2, found.bags.offsets)
        scales[scale.name] = _collate_scale(found, (weights, norm_sq), n_users, scale, config)
    # The last scale is the life's.
    return Batch(n_users, scales, _collate_life(found, (weights, norm_sq), n_users, config))


def _collate_scale(
    periods: ScaleBags, weighted: tuple[Float32, Float64], n_users: int, scale: Scale, config: SmenConfig
) -> ScaleBatch:
    bags, (weights, norm_sq) = periods.bags, weighted
    packed, batch_sizes, users = pack(periods.user, n_users)
    return ScaleBatch(
        indices=torch.from_numpy(bags.interests.astype(np.int64)),
        weights=torch.from_numpy(weights),
        offsets=torch.from_numpy(bags.offsets),
        norm_sq=torch.from_numpy(norm_sq.astype(np.float32)),
        features=torch.from_numpy(_features(periods, norm_sq, scale, config)),
        packed=torch.from_numpy(packed),
        batch_sizes=torch.from_numpy(batch_sizes),
        users=torch.from_numpy(users),
    )


def _collate_life(periods: ScaleBags, weighted: tuple[Float32, Float64], n_users: int, config: SmenConfig) -> LifeBatch:
    (weights, norm_sq), first_day = weighted, config.scale_objects[-1].first_day
    first = np.searchsorted(periods.user, np.arange(n_users + 1))
    newest = periods.period[(first[1:] - 1)[periods.user]]
    left = what_is_left(first_day(newest) - first_day(periods.period), config)
    norm = np.sqrt([segment_sum(of_kind, first) for of_kind in norm_sq * left**2])
    return LifeBatch(
        weights=torch.from_numpy(weights * left.astype(np.float32).take(periods.bags.owners, axis=1)),
        offsets=torch.from_numpy(periods.bags.offsets[first]),
        norm=torch.from_numpy(norm.T.astype(np.float32)),
    )


def what_is_left(days: Int64, config: SmenConfig) -> Float64:
    """What is left in every kind of sum of what was added these days ago: all in the plain one, half per half-life.

    A sum and its norm fade alike, so only the days between the periods of one life count, not today's date.
    **Shapes**: days int64[k] -> float64[G, k]. **Source**: our decision.
    """
    rates = np.array([0.0, *(1 / half_life for half_life in config.fading)])
    return np.asarray(np.exp2(-rates[:, None] * days), np.float64)


def segment_sum(values: Float64, offsets: Int64) -> Float64:
    """Sum of ``values[offsets[i]:offsets[i + 1]]`` for every i; double precision, so no order of users matters."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.bincount(owners, weights=values, minlength=len(offsets) - 1).astype(np.float64, copy=False)


def _features(periods: ScaleBags, norm_sq: Float64, scale: Scale, config: SmenConfig) -> Float32:
    first = np.diff(periods.user, prepend=-1) != 0
    gap = np.diff(periods.period, prepend=0)
    gap[first] = 0
    n_events = segment_sum(periods.bags.counts.astype(np.float64), periods.bags.offsets)
    date = dates(periods.period, scale, config)
    return period_features(norm_sq, gap, n_events, np.diff(periods.bags.offsets), periods.active, date)


def dates(period: Int64, scale: Scale, config: SmenConfig) -> Int64:
    """How many of the scale's periods these lie before the training data's last, as 0 or less.

    What is later counts as the last: no training saw a later date, so none must reach the recurrence.
    """
    return np.minimum(period - int(scale.of_day(np.asarray([config.reference_day], np.int64))[0]), 0)


def period_features(
    norm_sq: Float64, gap: Int64, n_events: Float64, n_distinct: Float64 | Int64, active: Int64, date: Int64
) -> Float32:
    """What a period says beside its bag: that it is known, and logs of weight, gap, volume, breadth, active days, date.

    **Shapes**: [k] each -> float32[k, N_FEATURES]. The date is never positive (`dates`): without a clock this is how
    the recurrence tells an old life from a recent one. The first period's gap is 0. ``active`` are bits of days
    (`Scale.active_bit`); where none is known there was one at least.
    """
    n_active = np.maximum(np.bitwise_count(active), 1).astype(np.int64)
    logs = [norm_sq, gap, n_events, n_distinct, n_active, -date]
    columns = np.stack([norm_sq > 0, *(np.log1p(column) for column in logs)], axis=1)
    columns[:, -1] *= -1
    return columns.astype(np.float32)


def pack(user: Int64, n_users: int) -> tuple[Int64, Int64, Int64]:
    """How torch's packed sequences order the periods: by step, users with long sequences first."""
    lengths = np.bincount(user, minlength=n_users)
    users = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    place = np.empty(n_users, np.int64)
    place[users] = np.arange(len(users))
    step = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    packed = np.lexsort((place[user], step))
    batch_sizes = np.bincount(step) if len(step) else np.zeros(0, np.int64)
    return packed.astype(np.int64), batch_sizes.astype(np.int64), users.astype(np.int64)
