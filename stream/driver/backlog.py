"""What is fetched and not applied yet: in Faust's queues, in its recovery's buffers, and with our partitions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

# A record and its key and value as Python objects, beside their bytes.
_OBJECTS_BYTES: Final = 220


def bytes_of(records: Sequence[Any]) -> int:
    """Memory that fetched records take, about."""
    contents = sum(len(record.key or b"") + len(record.value or b"") for record in records)
    return contents + _OBJECTS_BYTES * len(records)


def waiting(app: Any) -> list[Any]:
    """The batches that wait, those that are being applied among them."""
    queues = list(app.flow_control._queues)  # noqa: SLF001 - source and changelog; nobody else knows both
    events = [event for queue in queues for event in queue._queue]  # noqa: SLF001
    events += [event for buffer in app.tables.recovery.buffers.values() for event in buffer]
    return [*app.ownership.applying.values(), *(event.message for event in events)]


def bytes_by_topic(batches: Iterable[Any]) -> Counter[str]:
    """Memory that they take."""
    found: Counter[str] = Counter()
    for batch in batches:
        found[batch.topic] += batch.n_bytes
    return found
