"""Events in memory: five parallel arrays and the names behind their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from state.bags import sum_pairs
from state.history import Rows
from state.periods import DAY, MS_PER_DAY, Int64, day_of

Attributes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Events:
    """n events in order of time.

    **Shapes**: user (row of ``users``), item (row of ``items``), ts_ms, weight (how often it counts) all int64[n];
    attributes_ms int64[n_items], when an item's attributes were first told; None if they were known from the start.
    **Units**: ts_ms and attributes_ms Unix milliseconds.
    """

    user: Int64
    item: Int64
    ts_ms: Int64
    weight: Int64
    users: list[str]
    items: list[str]
    item_attributes: Sequence[Attributes]
    attributes_ms: Int64 | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def span(self) -> str:
        """The dates of the first and the last event, for messages."""
        return f"first={date_of(int(self.ts_ms.min()))} last={date_of(int(self.ts_ms.max()))}" if len(self) else ""

    def where(self, chosen: NDArray[np.bool_]) -> "Events":
        """The chosen events, numbered as before: users and items without events stay known."""
        columns = {name: getattr(self, name)[chosen] for name in ("user", "item", "ts_ms", "weight")}
        return replace(self, **columns)

    def before(self, ts_ms: int) -> "Events":
        """What was known before a time: its events, and only attributes that had been told by then."""
        past = self.where(self.ts_ms < ts_ms)
        if self.attributes_ms is None:
            return past
        told = (self.attributes_ms < ts_ms).tolist()
        known = [found if is_told else {} for found, is_told in zip(self.item_attributes, told, strict=True)]
        return replace(past, item_attributes=known)

    def compact(self) -> "Events":
        """The same events without the users and items that have none."""
        users, user = np.unique(self.user, return_inverse=True)
        items, item = np.unique(self.item, return_inverse=True)
        return replace(
            self,
            user=user.astype(np.int64),
            item=item.astype(np.int64),
            users=[self.users[u] for u in users.tolist()],
            items=[self.items[i] for i in items.tolist()],
            item_attributes=[self.item_attributes[i] for i in items.tolist()],
            attributes_ms=None if self.attributes_ms is None else self.attributes_ms[items],
        )


def date_of(ts_ms: int) -> str:
    """The day, in UTC."""
    return DAY.label(ts_ms // MS_PER_DAY)


@dataclass(frozen=True, slots=True)
class UserLabels:
    """What is known of users beside their events. **Shapes**: every column has one text per user, "" if unknown."""

    users: list[str]
    columns: Mapping[str, list[str]] = field(default_factory=dict)


def day_rows(user: Int64, ts_ms: Int64, interest: Int64, weight: Int64) -> Rows:
    """The rows the state would hold of these events before any roll-up: one per user and day."""
    day = day_of(ts_ms)
    code, owners = np.unique((user << 32) + (day + 2**31), return_inverse=True)
    newest = np.full(len(code), np.iinfo(np.int64).min, np.int64)
    np.maximum.at(newest, owners, ts_ms)
    return Rows(
        user=code >> 32,
        scale=np.full(len(code), DAY.code, np.int64),
        period=(code & 0xFFFFFFFF) - 2**31,
        seq=np.arange(len(code), dtype=np.int64),
        event_time_ms=newest,
        active=np.zeros(len(code), np.int64),
        bags=sum_pairs(owners.astype(np.int64), interest.astype(np.uint32), weight.astype(np.uint32), len(code)),
    )
