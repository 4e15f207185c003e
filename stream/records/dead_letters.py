"""Dead letters: rejected events go unchanged to their own topic, with headers that say why and where from.

**Source** of the header names: the style of Kafka's KIP-1034, under our own prefix.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stream.records.arrival import LeftOut
from stream.records.events import ID_BYTES_MAX, Rejection
from stream.records.outgoing import RECORD_OVERHEAD_BYTES, Outgoing

PREFIX = "__lurm.errors."
# With the other headers of ours it fits into `stream.kafka.topics.DEAD_LETTER_BYTES`.
_MESSAGE_CHARS_MAX = 500


class Place(NamedTuple):
    """The source partition that rejected events came from."""

    topic: str
    number: int


def dead_letter(rejection: Rejection, place: Place, bytes_max: int) -> Outgoing:
    """The record to send: key, value and headers as they were, ours appended.

    An event that came compressed may be larger than any topic takes as it is, or than what is read at all: only its
    key, if that is a user's, and our headers go, with ``bytes``. It can be read where it came from.
    """
    ours = {
        "reason": rejection.reason.value,
        "message": rejection.message[:_MESSAGE_CHARS_MAX],
        "topic": place.topic,
        "partition": str(place.number),
        "offset": str(rejection.record.offset),
    }
    key, value = rejection.record.key, rejection.record.value
    letter = Outgoing(key, value, [*rejection.record.headers, *_headers(ours)])
    left_out = isinstance(value, LeftOut)
    n_bytes = value.n_bytes if isinstance(value, LeftOut) else _bytes_at_most(letter)
    if n_bytes <= bytes_max and not left_out:
        return letter
    is_short = key is not None and len(key) <= ID_BYTES_MAX
    return Outgoing(key if is_short else None, None, _headers(ours | {"bytes": str(n_bytes)}))


def dead_letters(
    rejections: Iterable[Rejection], place: Place, bytes_max: int, to_send_on: int | None = None
) -> list[Outgoing]:
    """One dead letter per rejection of a batch of this source partition.

    A batch that came compressed may hold a thousand times what was sent. Of all its events together no more than
    ``to_send_on`` bytes are repeated; of those beyond, as of one that is too large, only the key.
    """
    left, letters = 1 << 62 if to_send_on is None else to_send_on, []
    for rejection in rejections:
        letter = dead_letter(rejection, place, bytes_max)
        left -= len(letter.value or b"")
        letters.append(letter if left >= 0 else dead_letter(rejection, place, 0))
    return letters


def _headers(ours: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(PREFIX + name, text.encode()) for name, text in ours.items()]


def _bytes_at_most(letter: Outgoing) -> int:
    """What it takes in a batch of its own; a length takes 5 bytes at most."""
    of_headers = sum(len(name.encode()) + len(value or b"") + 10 for name, value in letter.headers or ())
    return len(letter.key or b"") + len(letter.value or b"") + of_headers + RECORD_OVERHEAD_BYTES
