"""The name under which workers meet in a group."""

from types import SimpleNamespace
from typing import cast

from faust.types import AppT

from stream.driver.assignor import PartitionAssignor


def test_the_name_says_what_is_read_before_anything_is_subscribed() -> None:
    """Half of it, as a worker subscribes while it starts, would shut out whoever comes next."""
    assert named("events", "app-bags-changelog").endswith(":app-bags-changelog,events")
    assert named("events", "app-bags-changelog", "app-more-changelog").endswith(
        ":app-bags-changelog,app-more-changelog,events"
    )
    assert named("other", "app-bags-changelog") != named("events", "app-bags-changelog")


def named(events: str, *changelogs: str) -> str:
    tables = {name: SimpleNamespace(changelog_topic_name=name) for name in changelogs}
    ownership = SimpleNamespace(shared=SimpleNamespace(names=SimpleNamespace(events=events)))
    return PartitionAssignor(cast("AppT", SimpleNamespace(tables=tables, ownership=ownership))).name
