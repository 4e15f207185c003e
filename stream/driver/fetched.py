"""What a fetch tells of a partition: its records, and since when they stand there.

When a partition was seen to end somewhere, what is read beyond was appended later, whatever its records say.
"""

from typing import Any, Final, NamedTuple

from stream.records.arrival import Arrival

# While a worker is behind, the end moves at every fetch; of so many that were seen every other one will do.
_SEEN_MAX: Final = 256


class Fetched(NamedTuple):
    """One fetch of one partition; ``next`` is the position after it, past control records and compacted offsets."""

    records: list[Any]
    start: int
    next: int
    generation: int
    arrival: Arrival


class EndsSeen:
    """The ends of partitions as fetches told them, each with when it was last seen."""

    def __init__(self) -> None:
        self._seen: dict[Any, dict[int, int]] = {}

    def note(self, tp: Any, end: int | None, at_ms: int | None) -> None:
        """The partition ended at this offset then."""
        if end is None or at_ms is None:
            return
        seen = self._seen.setdefault(tp, {})
        if seen and end < max(seen):
            seen.clear()  # another topic of the name
        seen[end] = at_ms
        if len(seen) > _SEEN_MAX:
            self._seen[tp] = dict(list(seen.items())[::-2][::-1])

    def after_ms(self, tp: Any, offset: int) -> int | None:
        """When the partition was last seen to end before this offset; what is known of before is forgotten."""
        seen = self._seen.get(tp, {})
        before = [end for end in seen if end <= offset]
        for end in before[:-1]:
            del seen[end]
        return seen[before[-1]] if before else None
