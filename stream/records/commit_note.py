"""What a group's commit says beside the offset, for who goes on there: of which topic it is, and what was handled.

An offset alone is taken for one of whatever topic has the name now; and who begins behind the last record of one vector
space does not see that the next ones are of another.
"""

from typing import Final, Self

import msgspec

from state.errors import UNREADABLE

# Kafka takes 4,096 bytes by default; anybody may write a longer name of a space into the topic.
_SPACE_CHARS_MAX: Final = 256


class CommitNote(msgspec.Struct, frozen=True):
    """The topic's id and the vector space, each empty where it is not known."""

    topic_id: str = ""
    space_id: str = ""

    def encode(self) -> str:
        """As text."""
        is_short = len(self.space_id) <= _SPACE_CHARS_MAX
        note = self if is_short else msgspec.structs.replace(self, space_id="")
        return msgspec.json.encode(note).decode()

    @classmethod
    def decode(cls, text: str | None) -> Self:
        """What such a text says; nothing where it is another's, or of an earlier version."""
        try:
            return msgspec.json.decode(text or "{}", type=cls)
        except UNREADABLE:
            return cls()
