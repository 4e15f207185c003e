"""The walk over everybody, which publishes them anew: because another model encodes, or another topic is written to.

A published watermark holds for one output only, so the partition record says which one it is. While a walk is under
way the record names where it goes and who is behind it; whoever starts with the same output goes on there, and whoever
starts with any other begins a walk of his own over everybody, since some have the embedding of the one that stopped.
The record says so before the first embedding of a new output is published, so no crash can hide one. Refused: the model
of the last walk that was through, alone: rolled back in the middle of a walk, users kept the other model's vectors.
"""

import msgspec


class Output(msgspec.Struct, frozen=True):
    """What makes embeddings and where they go. A topic or an id that is empty is unknown, and nothing is compared."""

    model_id: str = ""
    topic: str = ""
    topic_id: str = ""

    def fits(self, other: "Output") -> bool:
        """Whether nothing that is known of both tells them apart."""
        topics, ids = {self.topic, other.topic} - {""}, {self.topic_id, other.topic_id} - {""}
        return self.model_id == other.model_id and len(topics) <= 1 and len(ids) <= 1

    def __str__(self) -> str:
        return f"model={self.model_id or 'none'} topic={self.topic or 'unknown'} topic_id={self.topic_id or 'unknown'}"

    def known_by(self, other: "Output") -> "Output":
        """The output, with what only the other one knows of it."""
        return Output(self.model_id, self.topic or other.topic, self.topic_id or other.topic_id)


class Walk(msgspec.Struct, frozen=True):
    """A walk to an output, in the order of the users' ids: all up to ``after`` have their embedding there."""

    to: Output
    after: bytes = b""

    def past(self, user: bytes) -> "Walk":
        """The walk once this user's embedding and those of all before are acknowledged."""
        return Walk(self.to, user)

    def has_passed(self, user: bytes) -> bool:
        """Whether this user's embedding was published by it."""
        return user <= self.after
