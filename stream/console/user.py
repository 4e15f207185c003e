"""What is known of one user: interests over time, last embeddings, nearest users."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from threading import Lock
from typing import Any

from stream.console.held import Held, Known, flat, published
from stream.errors import LurmError
from stream.operations.bag_report import PeriodBag, period_bags
from stream.operations.replay import newest_embeddings, newest_state, only, scales_of
from stream.settings import Settings

_N_PERIODS, _N_INTERESTS, _N_NEAREST = 62, 15, 10


class Inspector:
    """Answers from what is held; reads the topics, for one user at a time, where that is not everybody."""

    def __init__(self, settings: Settings, held: Held, items: Mapping[int, Sequence[str]]) -> None:
        self._settings = settings
        self._held = held
        self._items = items
        self._reading = Lock()

    def report(self, user: str) -> dict[str, Any] | None:
        """None when nothing is known. **Raises** `LurmError`, `StateError` when the topics cannot be read."""
        if not self._held.complete:
            raise LurmError("the topics are being read for the first time; try again in a moment")
        held = self._held.holds(user)
        known = self._held.of_user(user) if held else self._read(user)
        partitions, rows = known.state.of_user(user.encode())
        if not partitions and not known.embeddings:
            return None
        bags: list[PeriodBag] = []
        if partitions:
            bags = list(period_bags([user.encode()], rows, scales_of(self._settings, known.state)))
        seq = int(rows.seq.max()) if len(rows) else None
        nearest, n_compared = self._held.nearest(user, known, _N_NEAREST)
        return {
            "user_id": user,
            "partition": partitions[0] if partitions else None,
            "partitions": partitions,
            "seq": seq,
            "event_time_ms": int(rows.event_time_ms.max()) if len(rows) else None,
            "pending": seq is not None and (not known.embeddings or known.embeddings[0].seq < seq),
            "scales": {name: self._heat(list(own)) for name, own in groupby(bags, lambda bag: bag.scale)},
            "embeddings": [each._asdict() for each in known.embeddings],
            "nearest": [{"user_id": other, "cosine": cosine} for other, cosine in nearest],
            "n_compared": n_compared,
            "from": "memory" if held else "topics",
        }

    def _read(self, user: str) -> Known:
        if not self._reading.acquire(blocking=False):
            raise LurmError("the topics are being read for another user; try again")
        try:
            state = newest_state(self._settings, only(user))
            embedding = newest_embeddings(self._settings, only(user)).get(user)
        finally:
            self._reading.release()
        if embedding is None:
            return Known(state, [], None)
        return Known(state, [published(embedding)], flat(embedding))

    def _heat(self, bags: Sequence[PeriodBag]) -> dict[str, Any]:
        """Counts of the top interests (rows) in the last periods that have any (columns)."""
        shown, totals = bags[-_N_PERIODS:], Counter[int]()
        for bag in shown:
            totals.update(bag.interests)
        top = sorted(totals, key=lambda interest: (-totals[interest], interest))[:_N_INTERESTS]
        return {
            "periods": [bag.period for bag in shown],
            "interests": [{"interest": interest, "items": self._items.get(interest, [])} for interest in top],
            "counts": [[bag.interests.get(interest, 0) for bag in shown] for interest in top],
            "n_periods": len(bags),
            "n_interests": len(totals),
        }
