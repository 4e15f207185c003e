"""What a fetch tells of a partition: its records, and since when they stand there.

When a partition was seen to end somewhere, what is read beyond was appended later, whatever its records say.
"""

from typing import Any, Final, NamedTuple

from aiokafka.consumer import subscription_state

from stream.records.arrival import UNKNOWN_EPOCH, Arrival

# While a worker is behind, the end moves at every fetch; of so many that were seen every other one will do.
_SEEN_MAX: Final = 256


class Fetched(NamedTuple):
    """One fetch of one partition; ``next`` is the position after it, past control records and compacted offsets.

    ``first_epoch``: of the leader that wrote its first batch.
    """

    records: list[Any]
    start: int
    next: int
    generation: int
    arrival: Arrival
    first_epoch: int


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


class PartitionState(subscription_state.TopicPartitionState):
    """Where a partition is read, and whether it jumped: aiokafka answers an offset that is gone with another.

    All from ``start`` up to the position was read and is not handed out yet. A position that was chosen meanwhile
    begins anew, or a seek would pass for records that were read.
    """

    jumped = False
    start = 0
    epochs = (UNKNOWN_EPOCH, UNKNOWN_EPOCH)

    def await_reset(self, strategy: Any) -> None:
        """Called when the broker does not know the offset; also for a partition that never had one."""
        self.jumped = self.has_valid_position
        super().await_reset(strategy)

    def reset_to(self, position: int) -> None:
        """Called when the group's offset or the topic says where to begin."""
        self._begin(position)
        super().reset_to(position)

    def seek(self, position: int) -> None:
        """Called when we choose the offset."""
        self.jumped = False
        self._begin(position)
        super().seek(position)

    def hand_out(self) -> None:
        """What was read up to the position is somebody's now."""
        self.jumped, self.start = False, self.position

    def _begin(self, position: int) -> None:
        self.start, self.epochs = position, (UNKNOWN_EPOCH, UNKNOWN_EPOCH)


# aiokafka makes the states of an assignment itself, by this name.
subscription_state.TopicPartitionState = PartitionState


def states(subscriptions: Any) -> dict[Any, PartitionState]:
    """The partitions that are assigned and have a position."""
    assignment = subscriptions.subscription.assignment if subscriptions.subscription else None
    if assignment is None:
        return {}
    states = {tp: assignment.state_value(tp) for tp in assignment.tps}
    return {tp: state for tp, state in states.items() if state.has_valid_position}
