"""The console follows the topics, goes on where it was, and reads on demand what it does not hold."""

import pytest

from state.periods import MS_PER_DAY
from stream.console.broker import Follower
from stream.console.held import Held
from stream.console.user import Inspector
from stream.errors import LurmError
from stream.kafka.connection import admin
from stream.kafka.topics import create_missing, n_partitions
from stream.settings import Settings
from tests.broker.state_writer import StateWriter
from tests.brokers import Broker, fresh_settings
from tests.conftest import KINDS
from tests.plain import PlainEvent
from tests.workers import FIRST_DAY, tiny_bundle, wait_until

EVENTS = [PlainEvent(b"user-%d" % (n % 5), n % 7, (FIRST_DAY + n) * MS_PER_DAY) for n in range(100)]


@pytest.fixture
def settings(session_brokers: dict[str, Broker]) -> Settings:
    made = fresh_settings(session_brokers[KINDS[-1]].start().brokers)
    create_missing(made)
    return made


def read_on(follower: Follower) -> None:
    with follower:
        assert follower.follow(seconds=30) == 0


def test_what_is_held_and_what_is_read_on_demand_say_the_same_of_a_user(settings: Settings) -> None:
    held, small = Held(1 << 30), Held(0)
    follower, small_follower = Follower(settings, held), Follower(settings, small)
    with pytest.raises(LurmError, match="first time"):
        Inspector(settings, held, {}).report("user-1")
    writer = StateWriter(settings, tiny_bundle())
    writer.write_rows(EVENTS[:50], rolled_up=True)
    read_on(follower)
    report = Inspector(settings, held, {}).report("user-1")
    assert report is not None
    assert report["pending"], "no embedding yet"
    writer.write_rows(EVENTS, rolled_up=True)
    writer.write_embeddings(EVENTS)
    read_on(follower)
    read_on(small_follower)
    of_held, on_demand = (Inspector(settings, each, {}).report("user-1") for each in (held, small))
    assert of_held is not None
    assert on_demand is not None
    same = set(of_held) - {"from", "nearest", "n_compared"}
    assert {name: of_held[name] for name in same} == {name: on_demand[name] for name in same}
    assert (of_held["from"], on_demand["from"]) == ("memory", "topics")
    assert len(of_held["nearest"]) == 4
    months = of_held["scales"]["month"]
    assert sum(map(sum, months["counts"])) == 20
    assert not of_held["pending"]
    assert Inspector(settings, held, {}).report("nobody") is None


def test_a_topic_that_is_made_anew_with_fewer_partitions_is_an_error_to_show(settings: Settings) -> None:
    follower = Follower(settings, Held(1 << 30))
    read_on(follower)
    with admin(settings) as client:
        client.delete_topics([settings.topics.embeddings])
    wait_until(lambda: not n_partitions(settings, settings.topics.embeddings))
    fewer = settings.topics.model_copy(update={"partitions": settings.topics.partitions - 1})
    create_missing(settings.model_copy(update={"topics": fewer}))
    with follower, pytest.raises(LurmError, match="made anew"):
        follower.follow()
