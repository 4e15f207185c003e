"""The plain reference that the soak and the tests share."""

from collections.abc import Mapping

from stream.soak.reference import Bags, PlainEvent, bags

__all__ = ["Bags", "PlainEvent", "bags", "without_erased"]


def without_erased(
    events: Mapping[tuple[int, int], PlainEvent], ends: Mapping[bytes, Mapping[int, int]]
) -> list[PlainEvent]:
    """The events, by partition and offset, that erasures leave: of each user those from the partition's end on."""
    return [
        event for (partition, offset), event in events.items() if offset >= ends.get(event.user, {}).get(partition, 0)
    ]
