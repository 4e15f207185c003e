"""The plain reference: what the bags of events are, in dictionaries and loops."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from state.periods import DAY, MS_PER_DAY, Scale, window_start


class PlainEvent(NamedTuple):
    user: bytes
    interest: int
    ts_ms: int
    weight: int = 1


Bags = Mapping[tuple[bytes, str, str], Mapping[int, int]]


def bags(events: Iterable[PlainEvent], scales: Iterable[Scale]) -> Bags:
    """(user, scale, label of the period) -> interest -> count, days only inside the user's window."""
    events, scales = list(events), list(scales)
    newest: dict[bytes, int] = {}
    for event in events:
        newest[event.user] = max(newest.get(event.user, -(2**62)), event.ts_ms // MS_PER_DAY)
    found: dict[tuple[bytes, str, str], Counter[int]] = defaultdict(Counter)
    for event in events:
        day = event.ts_ms // MS_PER_DAY
        for scale in scales:
            start = int(window_start(np.array([newest[event.user]]))[0])
            if scale is DAY and len(scales) > 1 and day < start:
                continue
            period = int(scale.of_day(np.array([day]))[0])
            found[event.user, scale.name, scale.label(period)][event.interest] += event.weight
    return found
