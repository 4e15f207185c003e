"""Faust's assignor, under a name that says which topics its worker reads; Kafka lets only one name into a group.

Where the members of a group subscribe different topics, Faust assigns each among those who do, which parts a changelog
from its events. Such members are of another version, whose tables differ, or have another events topic.
"""

from typing import Any

from faust import assignor


class PartitionAssignor(assignor.PartitionAssignor):
    """Between workers that subscribe the same topics; whoever would join with others is refused by the broker."""

    _topics: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """What the broker compares, and shows as the group's assignment strategy."""
        return f"{super().name}:{','.join(sorted(self._topics))}"

    def metadata(self, topics: set[str]) -> Any:
        """What this worker tells the group of itself; asked before the name whenever it joins."""
        self._topics = frozenset(topics)
        return super().metadata(topics)
