"""Encode a batch of users from one view of their partition: hidden caches where they hold, whole lives where not."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lurm_model.inference.incremental import IncrementalEncoder
from state.caches import NONE, Caches, decode_caches, encode_caches
from state.history import Rows
from state.periods import Int64
from state.rollup import users_to_roll_up
from state.rows import Write
from state.view import StoreView


@dataclass(frozen=True, slots=True)
class EncodedUsers:
    """One encoded batch. **Shapes**: vectors [n, M, H], seq and event_time_ms int64[n].

    ``to_roll_up``: who may have days before the window, and up to which day they may go. ``caches`` are to be stored
    once the embeddings are acknowledged; ``outcomes`` counts users by their stored cache:
    hit, stale (another model's, or an older day changed) or miss. The ``refused`` have no vectors here.
    """

    users: list[bytes]
    vectors: NDArray[np.float32]
    seq: Int64
    event_time_ms: Int64
    to_roll_up: Mapping[bytes, int]
    caches: Sequence[Write] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    refused: frozenset[bytes] = frozenset()

    def only(self, good: NDArray[np.bool_]) -> "EncodedUsers":
        """Without the users whose vectors are no numbers, bool[n]: a later encode begins without their caches."""
        if good.all():
            return self
        kept = np.flatnonzero(good).tolist()
        refused = frozenset(self.users[i] for i in np.flatnonzero(~good).tolist())
        caches = [(user, value) for user, value in self.caches if user not in refused]
        return replace(
            self,
            users=[self.users[i] for i in kept],
            vectors=self.vectors[kept],
            seq=self.seq[kept],
            event_time_ms=self.event_time_ms[kept],
            caches=[*caches, *((user, None) for user in refused)],
            refused=refused,
        )

    @property
    def mean_norm(self) -> float:
        """The mean length of the users' vectors, each taken as one."""
        return float(np.linalg.norm(self.vectors.reshape(len(self.users), -1), axis=1).mean()) if self.users else 0.0


def leave_a_core() -> int:
    """How many threads torch has from now on, at most those it had: the event loop needs a core, or both are slower."""
    n_threads = max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) - 1))
    torch.set_num_threads(n_threads)
    return n_threads


def encode_users(
    view: StoreView, encoder: IncrementalEncoder, users: Sequence[bytes], earliest_day: Int64
) -> EncodedUsers:
    """Encode the users that have rows. ``earliest_day``: of the changes since each was last encoded, int64[n]."""
    stored = view.caches(users)
    caches = decode_caches(stored, encoder.shape)
    caches = caches.without(caches.closed_day >= earliest_day, encoder.shape)
    rows, holds = view.rows(users, caches, encoder.windowed)
    outcomes = Counter(hit=int(holds.sum()), miss=stored.count(None))
    outcomes["stale"] = len(users) - outcomes.total()
    caches = caches.without(~holds, encoder.shape)
    known = np.unique(rows.user)
    if len(known) < len(users):
        rows = replace(rows, user=np.searchsorted(known, rows.user))
        places, caches = known.tolist(), caches.take(known)
        users, stored = [users[i] for i in places], [stored[i] for i in places]
    vectors, advanced = encoder.advance(caches, rows)
    seq, event_time_ms = advanced.head["seq"].copy(), np.full(len(users), NONE)
    np.maximum.at(seq, rows.user, rows.seq)
    np.maximum.at(event_time_ms, rows.user, rows.event_time_ms)
    closed_day = advanced.closed_day.tolist()
    to_roll_up = {users[i]: closed_day[i] for i in _to_roll_up(rows, caches, advanced, encoder).tolist()}
    writes = _writes(users, stored, caches, advanced)
    return EncodedUsers(list(users), vectors, seq, event_time_ms, to_roll_up, writes, outcomes)


def _to_roll_up(rows: Rows, before: Caches, after: Caches, encoder: IncrementalEncoder) -> Int64:
    """Who may have days before the window: they were read, or the window moved past days that were not."""
    moved = (before.closed_day != NONE) & (before.head["window_start"] != after.head["window_start"])
    return np.union1d(users_to_roll_up(rows, encoder.scales, len(after)), np.flatnonzero(moved))


def _writes(users: Sequence[bytes], stored: Sequence[bytes | None], before: Caches, after: Caches) -> list[Write]:
    """The changed caches. One that says nothing is not stored: who was active on one day is read in full as quickly."""
    changed = np.flatnonzero(before.closed_day != after.closed_day)
    of_changed = after.take(changed)
    empty = of_changed.is_empty.tolist()
    values = [None if nothing else value for value, nothing in zip(encode_caches(of_changed), empty, strict=True)]
    writes = zip(changed.tolist(), values, strict=True)
    return [(users[i], value) for i, value in writes if value is not None or stored[i] is not None]
