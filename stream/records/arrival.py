"""What a batch of source records brings beside what they say: how it was read."""

from typing import Final, NamedTuple

# The record time of who has none.
NO_TIME_MS: Final = -1
# The leader epoch of whoever gave none.
UNKNOWN_EPOCH: Final = -1


class LeftOut(bytes):
    """The empty value of a record that is too large to be read; it has ``n_bytes``."""

    n_bytes: int

    @classmethod
    def of(cls, n_bytes: int) -> "LeftOut":
        """The value of a record of so many bytes."""
        made = cls()
        made.n_bytes = n_bytes
        return made


class Arrival(NamedTuple):
    """How a batch came; None says that it is not known.

    ``to_send_on``: how many bytes of its records may be written to another topic (`stream.kafka.batches.pieces.Piece`).
    ``after_ms``: when the partition was seen to end before it, so that all of it was appended later.
    ``leader_epoch``: of the leader that wrote its last record; -1 when it is not known.
    """

    to_send_on: int | None = None
    after_ms: int | None = None
    leader_epoch: int = UNKNOWN_EPOCH

    def half(self) -> "Arrival":
        """Of each half of the batch."""
        return self if self.to_send_on is None else self._replace(to_send_on=self.to_send_on // 2)


UNKNOWN: Final = Arrival()
