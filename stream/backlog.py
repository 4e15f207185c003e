"""What is fetched and not applied yet: in Faust's queues, in its recovery's buffers, and with our partitions."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

# A record and its key and value as Python objects, beside their bytes.
_OBJECTS_BYTES: Final = 220


def bytes_of(records: Sequence[Any]) -> int:
    """Memory that fetched records take, about."""
    contents = sum(len(record.key or b"") + len(record.value or b"") for record in records)
    return contents + _OBJECTS_BYTES * len(records)


def backlog_bytes(app: Any) -> Counter[str]:
    """Memory of what waits, by topic."""
    queues = list(app.flow_control._queues)  # noqa: SLF001 - source and changelog; nobody else knows both
    events = [event for queue in queues for event in queue._queue]  # noqa: SLF001
    events += [event for buffer in app.tables.recovery.buffers.values() for event in buffer]
    found = Counter({app.ownership.shared.names.events: app.ownership.applying_bytes})
    for event in events:
        found[event.message.topic] += event.message.n_bytes
    return found
