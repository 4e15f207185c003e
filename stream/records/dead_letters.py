"""Dead letters: rejected events go unchanged to their own topic, with headers that say why and where from.

**Source** of the header names: the style of Kafka's KIP-1034, under our own prefix.
"""

from collections.abc import Iterable, Mapping

from stream.records.events import ID_BYTES_MAX, Rejection
from stream.records.outgoing import RECORD_OVERHEAD_BYTES, Outgoing

PREFIX = "__lurm.errors."
# With the other headers of ours it fits into `stream.kafka.topics.DEAD_LETTER_BYTES`.
_MESSAGE_CHARS_MAX = 500


def dead_letter(rejection: Rejection, topic: str, partition: int, bytes_max: int) -> Outgoing:
    """The record to send: key, value and headers as they were, ours appended.

    An event that came compressed may be larger than any topic takes as it is: only its key, if that is a user's, and
    our headers go, with ``bytes``. It can be read where it came from.
    """
    ours = {
        "reason": rejection.reason.value,
        "message": rejection.message[:_MESSAGE_CHARS_MAX],
        "topic": topic,
        "partition": str(partition),
        "offset": str(rejection.record.offset),
    }
    key, value = rejection.record.key, rejection.record.value
    letter = Outgoing(key, value, [*rejection.record.headers, *_headers(ours)])
    n_bytes = _bytes_at_most(letter)
    if n_bytes <= bytes_max:
        return letter
    is_short = key is not None and len(key) <= ID_BYTES_MAX
    return Outgoing(key if is_short else None, None, _headers(ours | {"bytes": str(n_bytes)}))


def dead_letters(rejections: Iterable[Rejection], topic: str, partition: int, bytes_max: int) -> list[Outgoing]:
    """One dead letter per rejection of a batch of this source partition."""
    return [dead_letter(rejection, topic, partition, bytes_max) for rejection in rejections]


def _headers(ours: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(PREFIX + name, text.encode()) for name, text in ours.items()]


def _bytes_at_most(letter: Outgoing) -> int:
    """What it takes in a batch of its own; a length takes 5 bytes at most."""
    of_headers = sum(len(name.encode()) + len(value or b"") + 10 for name, value in letter.headers or ())
    return len(letter.key or b"") + len(letter.value or b"") + of_headers + RECORD_OVERHEAD_BYTES
