"""Faust's assignor, under a name that says which topics its worker reads; Kafka lets only one name into a group.

Where the members of a group subscribe different topics, Faust assigns each among those who do, which parts a changelog
from its events. Such members are of another version, whose tables differ, or have another events topic.
"""

from faust import assignor


class PartitionAssignor(assignor.PartitionAssignor):
    """Between workers that read the same topics; whoever would join with others is refused by the broker."""

    @property
    def name(self) -> str:
        """What the broker compares, and shows as the group's assignment strategy.

        Not what is subscribed: while a worker starts, that may be half of it, and whoever came next would be refused.
        """
        changelogs = {table.changelog_topic_name for table in self.app.tables.values()}
        return f"{super().name}:{','.join(sorted({self.app.ownership.shared.names.events, *changelogs}))}"
