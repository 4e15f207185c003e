"""Dead letters: rejected events go unchanged to their own topic, with headers that say why and where from.

**Source** of the header names: the style of Kafka's KIP-1034, under our own prefix.
"""

from collections.abc import Iterable

from stream.events import Rejection
from stream.transactions import Outgoing

PREFIX = "__lurm.errors."


def dead_letter(rejection: Rejection, topic: str, partition: int) -> Outgoing:
    """The record to send: key, value and headers as they were, ours appended."""
    ours = {
        "reason": rejection.reason.value,
        "message": rejection.message,
        "topic": topic,
        "partition": str(partition),
        "offset": str(rejection.record.offset),
    }
    headers = [*rejection.record.headers, *((PREFIX + name, text.encode()) for name, text in ours.items())]
    return Outgoing(rejection.record.key, rejection.record.value, headers)


def dead_letters(rejections: Iterable[Rejection], topic: str, partition: int) -> list[Outgoing]:
    """One dead letter per rejection of a batch of this source partition."""
    return [dead_letter(rejection, topic, partition) for rejection in rejections]
