"""The batch core: events and the stored rows in, changed rows and marks out. No Faust, no Kafka, no clock.

Every event writes exactly one row, its day's, however late it comes. All of a batch is done at once: one look-up of
all rows, one merge of all pairs; the cost does not depend on the number of scales or the length of a life.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lurm_model.interests.attribute_sets import AttributeSets, NewSets
from state.bags import sum_pairs
from state.dirty import MarkColumns
from state.periods import DAY, Int64, day_of
from state.rows import decode_values, encode_keys, encode_values, seq_of
from stream.metrics import WorkerMetrics
from stream.records.events import EventBatch

_DAY_BIAS = 1 << 31


class RowReader(Protocol):
    """Where the present rows are looked up."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, None where there is no row."""


@dataclass(frozen=True, slots=True)
class RowUpdate:
    """The rows a batch of events changes, and the users it makes dirty with a mark each."""

    keys: list[bytes]
    values: list[bytes]
    users: list[bytes]
    marks: MarkColumns


async def interests_of(
    new: NewSets, sets: AttributeSets, executor: Executor, metrics: WorkerMetrics, is_current: Callable[[], bool]
) -> Int64 | None:
    """The interests of sets of attributes that were never seen; None when their batch is overtaken meanwhile.

    That is a product with all interests, of seconds where there are a million: in a thread, so that no transaction of
    others waits. What was found is remembered all the same.
    """
    if not new.sets:
        return np.zeros(0, np.int64)
    with metrics.timed("assign"):
        interests = await asyncio.get_running_loop().run_in_executor(executor, sets.find, new.sets)
    if is_current():
        return interests
    sets.remember(new, interests)
    return None


def update_rows(batch: EventBatch, epoch: int, reader: RowReader) -> RowUpdate:
    """Add every event of the batch to its user's row of its day."""
    if not len(batch):
        none = np.zeros(0, np.int64)
        return RowUpdate([], [], [], MarkColumns(none, none, none, none))
    seq = seq_of(epoch, 0) + batch.offset
    day = day_of(batch.ts_ms)
    code, row = np.unique((batch.user << 32) | (day + _DAY_BIAS), return_inverse=True)
    keys = encode_keys(batch.users, code >> 32, np.full(len(code), DAY.code), (code & 0xFFFFFFFF) - _DAY_BIAS)
    values = _merge(batch, seq, row, reader.get(keys))
    return RowUpdate(keys, values, batch.users, _marks(batch, seq, day))


def _merge(batch: EventBatch, seq: Int64, row: Int64, stored: Sequence[bytes | None]) -> list[bytes]:
    n = len(stored)
    present = np.flatnonzero(np.fromiter([value is not None for value in stored], bool, n))
    old_seq, old_time, old_bags, _ = decode_values([value for value in stored if value is not None])
    bags = sum_pairs(
        np.concatenate([present[old_bags.owners], row]),
        np.concatenate([old_bags.interests, batch.interest]),
        np.concatenate([old_bags.counts, batch.weight]),
        n,
    )
    # Offsets ascend within a batch, so the last assignment to a row is its newest event's.
    new_seq = np.empty(n, np.int64)
    new_seq[row] = seq
    new_time = np.full(n, np.iinfo(np.int64).min)
    new_time[present] = old_time
    np.maximum.at(new_time, row, batch.ts_ms)
    new_seq[present] = np.maximum(new_seq[present], old_seq)
    return encode_values(new_seq, new_time, bags)


def _marks(batch: EventBatch, seq: Int64, day: Int64) -> MarkColumns:
    n = len(batch.users)
    first_seq, newest_seq, first_ms = (np.empty(n, np.int64) for _ in range(3))
    # As above: assigned backwards, the first event of a user is the one that stays.
    first_seq[batch.user[::-1]] = seq[::-1]
    first_ms[batch.user[::-1]] = batch.record_ms[::-1]
    newest_seq[batch.user] = seq
    earliest_day = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(earliest_day, batch.user, day)
    return MarkColumns(first_seq, newest_seq, first_ms, earliest_day)
