"""The partition record: one record per partition that travels in every transaction beside the rows.

It says how far the source was applied, in which interest space the rows were counted, and the conservation ledger:
``received = applied + skipped + rejected``. A fresh disk, an expired group offset or a recreated topic cannot hide.
"""

import msgspec

from state.errors import UNREADABLE, FormatUnknown, SpaceMismatch, StoreCorrupt
from state.rows import seq_of
from state.walk import Output, Walk

VERSION = 1


class Ledger(msgspec.Struct, frozen=True):
    """Counts of source records of one partition, since its first."""

    received: int = 0
    applied: int = 0
    skipped: int = 0
    rejected: int = 0

    @property
    def balanced(self) -> bool:
        """Nothing was lost or counted twice."""
        return self.received == self.applied + self.skipped + self.rejected

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            self.received + other.received,
            self.applied + other.applied,
            self.skipped + other.skipped,
            self.rejected + other.rejected,
        )


class PartitionRecord(msgspec.Struct, frozen=True):
    """What holds for a partition after a transaction.

    ``next_offset`` is the source offset to read next, in the topic ``source_id`` (empty: unknown) of this epoch;
    ``published`` the lowest ``seq`` whose user's embedding may not be published yet; ``model_id``, ``embeddings_topic``
    and ``embeddings_id`` the output for which ``published`` holds (`state.walk`), or did before the ``walk`` under way
    began; ``control_offset`` the offset to read next of the control topic ``control_id``. Every erasure below
    ``erasures_offset`` of the erasures topic ``erasures_id`` is one whose events the source has passed. ``erasing``:
    users whose events below this ``seq`` are skipped, as workers wrote them before there was such a topic;
    ``leader_epoch`` that of the leader that wrote the last source record (-1: unknown). The embeddings topic held all
    below ``embeddings_end``.
    """

    interest_space_id: str
    scales: str
    next_offset: int = 0
    epoch: int = 0
    published: int = 0
    model_id: str = ""
    ledger: Ledger = Ledger()
    version: int = VERSION
    control_offset: int = 0
    erasing: dict[str, int] = {}
    source_id: str = ""
    erasures_id: str = ""
    erasures_offset: int = 0
    embeddings_topic: str = ""
    embeddings_id: str = ""
    walk: Walk | None = None
    leader_epoch: int = -1
    embeddings_end: int = 0
    control_id: str = ""

    @property
    def output(self) -> Output:
        """Where everybody's embedding went last, all told."""
        return Output(self.model_id, self.embeddings_topic, self.embeddings_id)

    def walk_to(self, output: Output) -> Walk | None:
        """The walk that brings everybody's embedding to an output: the one under way, a new one, or none."""
        known = self.output if self.walk is None else self.walk.to
        if not known.fits(output):
            return Walk(output)
        return None if self.walk is None else Walk(output.known_by(known), self.walk.after)

    def publishing(self, output: Output, walk: Walk | None) -> "PartitionRecord":
        """The record while this walk is under way; without one everybody's embedding is at the output."""
        if walk is not None:
            return msgspec.structs.replace(self, walk=walk)
        there = output.known_by(self.output if self.walk is None else self.walk.to)
        return msgspec.structs.replace(
            self,
            model_id=there.model_id,
            embeddings_topic=there.topic,
            embeddings_id=there.topic_id,
            walk=None,
        )

    def faults(self) -> list[str]:
        """What cannot be when every source record was received once; empty as it should be.

        An epoch above 0 has a ledger that spans several topics, so its offsets say nothing about it.
        """
        faults = [] if self.ledger.balanced else ["unbalanced"]
        counted_twice = self.epoch == 0 and self.ledger.received > self.next_offset
        return [*faults, "more_received_than_offsets"] if counted_twice else faults

    def refuse_other(self, interest_space_id: str, scales: str) -> None:
        """**Raises** `SpaceMismatch` unless the rows were counted in this interest space with these scales."""
        if self.interest_space_id != interest_space_id:
            raise SpaceMismatch(
                "the state was counted with another codebook: "
                f"state={self.interest_space_id} bundle={interest_space_id}"
            )
        if self.scales != scales:
            raise SpaceMismatch(f"the state was counted with other scales: state={self.scales} settings={scales}")

    def still_erasing(self) -> dict[str, int]:
        """The users of ``erasing`` whose erasure is of this epoch, each with the source offset it ends at."""
        first = seq_of(self.epoch, 0)
        return {user: seq - first for user, seq in self.erasing.items() if seq >= first}

    def without_passed(self) -> "PartitionRecord":
        """The record without the erasures whose every event the source has passed."""
        reached = seq_of(self.epoch, self.next_offset)
        left = {user: seq for user, seq in self.erasing.items() if seq > reached}
        return self if len(left) == len(self.erasing) else msgspec.structs.replace(self, erasing=left)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PartitionRecord)


def encode_record(record: PartitionRecord) -> bytes:
    """JSON, so that an operator can read it in the changelog."""
    return _encoder.encode(record)


def decode_record(value: bytes) -> PartitionRecord:
    """**Raises** `StoreCorrupt` when it is no partition record, `FormatUnknown` for another version."""
    try:
        record = _decoder.decode(value)
    except UNREADABLE as error:
        raise StoreCorrupt("the partition record cannot be read") from error
    if record.version != VERSION:
        raise FormatUnknown(f"the partition record has another format: version={record.version} known={VERSION}")
    return record
