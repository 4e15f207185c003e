"""Incremental inference: a user's vectors from a hidden cache of the closed days and the rows of newer ones.

A period's value is linear in its weights, so a period that goes on (a month) is cached as its value so far and its
bag, and a newer day adds, pair by pair, what its weight gains. Two steps: `close` takes every day before the user's
newest into the cache, `finish` adds the newest and answers. A user without a cache closes the whole life.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lurm_model.bundle import Bundle
from lurm_model.inference.encoder import Encoder
from lurm_model.inference.growth import Growth, grow, open_bags
from lurm_model.interests.codebook import content_id
from lurm_model.smen.collate import Float64, Sequences, dates, pack, period_features, to_device, what_is_left
from lurm_model.smen.network import bag_values, life_sums
from lurm_model.smen.time_aggregation import TimeAggregation
from state.caches import NONE, VERSION, Caches, CacheShape
from state.errors import StoreCorrupt
from state.history import Rows, ScaleBags, newest_days, periods_of
from state.periods import DAY, Int64, Scale, window_start


@dataclass(frozen=True, slots=True)
class Known:
    """The vectors of n caches on the device, S scales, day first.

    **Shapes**: states float32[n, S, R, H] after the last closed periods, open float32[n, S - 1, R, H] the values so far
    of the open periods of all scales but the day, sums float32[n, n_sums * H] of the whole life so far, as faded
    in the period of the day after the closed one.
    """

    states: Tensor
    open: Tensor
    sums: Tensor


@dataclass(frozen=True, slots=True)
class Newer:
    """What is newer than the caches in one scale. **Shapes**: weights float32[nnz] on the device, what pairs gain."""

    periods: ScaleBags
    growth: Growth
    indices: Tensor
    weights: Tensor


class IncrementalEncoder(Encoder):
    """An encoder with hidden caches: equal to the full encode up to float rounding, at the cost of what is new."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        super().__init__(bundle, device)
        config = bundle.config
        self.scales = config.scale_objects
        # Without a coarse scale the day scale shows every day.
        self.windowed = len(self.scales) > 1
        n_state, n_sums = config.n_recurrent * config.d_anchor, config.n_sums * config.d_anchor
        self._widths = [len(self.scales) * n_state, (len(self.scales) - 1) * n_state, n_sums]
        # Not the model's id: items new to the codebook change no vector, and so no cache.
        tag = content_id(str(VERSION).encode(), bundle.space_id.encode(), self.device.split(":")[0].encode())
        self.shape = CacheShape(bytes.fromhex(tag), len(self.scales), len(config.kinds_of_sums), sum(self._widths))

    def advance(self, caches: Caches, rows: Rows) -> tuple[NDArray[np.float32], Caches]:
        """Every user's M vectors, float32[n, M, H], and the caches with all days before their newest closed.

        ``rows`` are what the caches leave to read (`state.view`), with at least one day of every user.
        **Raises** `StoreCorrupt` for a user without a day.
        """
        newest = newest_days(rows, len(caches))
        if np.any(newest == NONE):
            raise StoreCorrupt("a user has rows and no day: wipe the partition's folder, its changelog restores it")
        users = np.flatnonzero(caches.closed_day != newest - 1)
        with torch.inference_mode():
            if len(users):
                place = np.full(len(caches), -1)
                place[users] = np.arange(len(users))
                some = replace(rows, user=place[rows.user])
                caches = caches.replace(users, self._close(caches.take(users), some, newest[users]))
            return self._finish(caches, rows, newest), caches

    def _close(self, caches: Caches, rows: Rows, newest: Int64) -> Caches:
        """Close every day before the newest. Rows of user -1 are others'."""
        after = Caches(caches.head.copy(), caches.bags)
        head, first = after.head, caches.closed_day + 1
        start = window_start(newest) if self.windowed else np.full(len(caches), NONE)
        moved = head["window_start"] != start
        head["last_period"][moved, 0] = NONE
        known = self._known(after)
        known.states[self._put(np.flatnonzero(moved)), 0] = 0
        self._fade(after, known, newest)
        older = (rows.user >= 0) & ((rows.scale != DAY.code) | (rows.period < newest[rows.user]))
        np.maximum.at(head["seq"], rows.user[older], rows.seq[older])
        newer = []
        for s, scale in enumerate(self.scales):
            since = np.where(moved, start, first) if scale is DAY else first
            chosen = np.flatnonzero(older & _counts_in(scale, rows, since))
            newer.append(self._newer(after, s, periods_of(rows, scale, chosen)))
            self._close_scale(after, s, newer[s], scale.of_day(newest), known)
        head["closed_day"], head["window_start"] = newest - 1, start
        bags = open_bags(caches, [each.periods for each in newer], head["open_period"])
        head["n_pairs"] = np.diff(bags.offsets).reshape(head["n_pairs"].shape)
        parts = (known.states, known.open, known.sums)
        head["vectors"] = torch.cat([part.flatten(1) for part in parts], dim=1).cpu().numpy()
        return Caches(head, bags)

    def _close_scale(self, after: Caches, s: int, newer: Newer, current: Int64, known: Known) -> None:
        """Take newer periods of one scale in: the user's current one goes on, those before it are closed."""
        head, scale, periods, growth = after.head, self.scales[s], newer.periods, newer.growth
        user = periods.user
        inputs, values = self._inputs(s, newer, known)
        if s == len(self.scales) - 1:
            self._add_to_life(after, newer, current, known)
        goes_on = periods.period == current[user]
        closed, going = np.flatnonzero(~goes_on), np.flatnonzero(goes_on)
        packed, batch_sizes, users = pack(user[closed], len(after))
        sequences = Sequences(self._put(closed[packed]), torch.from_numpy(batch_sizes), self._put(users))
        known.states[:, s] = self._time(s).run(inputs, sequences, known.states[:, s])
        # Periods ascend, so a user's last one stays.
        head["last_period"][user[closed], s] = periods.period[closed]
        if scale is not DAY:
            head["open_period"][:, s] = NONE
            head["open_period"][user[going], s] = periods.period[going]
            for name in ("norm_sq", "n_events", "active"):
                head[name][user[going], s] = getattr(growth, name)[going]
            known.open[self._put(user[going]), s - 1] = values[self._put(going)]

    def _fade(self, caches: Caches, known: Known, newest: Int64) -> None:
        """Let the sums fade until the period of the newest day."""
        before = np.where(caches.closed_day == NONE, newest, caches.closed_day + 1)
        left = self._left(self.scales[-1].of_day(before), self.scales[-1].of_day(newest))
        sums = known.sums.view(len(caches), self._config.n_sums, self._config.d_anchor)
        sums.mul_(self._put(left.T.astype(np.float32))[:, self._smen.kind_of_sum, None])
        caches.head["life_norm_sq"] *= left.T**2

    def _add_to_life(self, after: Caches, newer: Newer, current: Int64, known: Known) -> None:
        periods, growth = newer.periods, newer.growth
        left = self._left(periods.period, current[periods.user])
        weights = newer.weights * self._put(left.astype(np.float32).take(periods.bags.owners, axis=1))
        of_life = periods.bags.offsets[np.searchsorted(periods.user, np.arange(len(after) + 1))]
        known.sums.add_(life_sums(newer.indices, weights, self._put(of_life), self._table))
        np.add.at(after.head["life_norm_sq"], periods.user, (growth.gain_sq * left**2).T)

    def _left(self, period: Int64, current: Int64) -> Float64:
        first_day = self.scales[-1].first_day
        return what_is_left(first_day(current) - first_day(period), self._config)

    def _finish(self, caches: Caches, rows: Rows, newest: Int64) -> NDArray[np.float32]:
        """The vectors, with the newest day on top of caches that hold everything before it."""
        chosen = np.flatnonzero((rows.scale == DAY.code) & (rows.period == newest[rows.user]))
        user, bags, known = rows.user[chosen], rows.bags.take(chosen), self._known(caches)
        states = []
        for s, scale in enumerate(self.scales):
            period = scale.of_day(newest)
            newer = self._newer(caches, s, ScaleBags(user, period, scale.active_bit(newest, period), bags))
            inputs, _ = self._inputs(s, newer, known)
            states.append(self._time(s).step(inputs, known.states[:, s]))
        # The last scale is the life's.
        weights = newer.weights.expand(len(self._table.sums), -1)
        sums = known.sums + life_sums(newer.indices, weights, self._put(bags.offsets), self._table)
        norm = np.sqrt(caches.head["life_norm_sq"] + newer.growth.gain_sq[:, None])
        life = self._smen.life(sums, self._put(norm.astype(np.float32)))
        stacked = torch.stack(states)
        present = torch.ones(stacked.shape[:2], dtype=torch.bool, device=self.device)
        vectors: Tensor = self._smen.readout(torch.cat([life, self._smen.scales(stacked, present)], dim=1))
        return vectors.float().cpu().numpy()

    def _newer(self, caches: Caches, s: int, periods: ScaleBags) -> Newer:
        growth = grow(caches, s, periods, self._idf)
        return Newer(periods, growth, self._put(periods.bags.interests.astype(np.int64)), self._put(growth.weights))

    def _inputs(self, s: int, newer: Newer, known: Known) -> tuple[Tensor, Tensor]:
        """What enters the recurrence, and the periods' values. **Shapes**: float32[k, R, H + features], [k, R, H]."""
        config, periods, growth = self._config, newer.periods, newer.growth
        offsets = self._put(periods.bags.offsets)
        values = bag_values(newer.indices, newer.weights, offsets, self._table.recurrent)
        values = values.view(-1, config.n_recurrent, config.d_anchor)
        if s > 0:
            known_in_part = np.flatnonzero(growth.continues)
            values[self._put(known_in_part)] += known.open[self._put(periods.user[known_in_part]), s - 1]
        date = dates(periods.period, self.scales[s], config)
        features = period_features(growth.norm_sq, growth.gap, growth.n_events, growth.n_distinct, growth.active, date)
        norm_sq = self._put(growth.norm_sq.astype(np.float32))
        return self._time(s).inputs(values, norm_sq, self._put(features)), values

    def _time(self, s: int) -> TimeAggregation:
        return cast("TimeAggregation", self._smen.time[self.scales[s].name])

    def _known(self, caches: Caches) -> Known:
        config = self._config
        n_scales, state = len(self.scales), (config.n_recurrent, config.d_anchor)
        states, started, sums = torch.split(self._put(np.array(caches.head["vectors"])), self._widths, dim=1)
        shapes = (len(caches), n_scales, *state), (len(caches), n_scales - 1, *state)
        return Known(states.reshape(shapes[0]), started.reshape(shapes[1]), sums)

    def _put(self, array: NDArray[Any]) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)


def _counts_in(scale: Scale, rows: Rows, first_day: Int64) -> NDArray[np.bool_]:
    """Which rows add to the scale's periods: its own, and those of days from the user's first one on."""
    own, day = rows.scale == scale.code, rows.scale == DAY.code
    return np.where(day, rows.period >= first_day[rows.user], own)
