"""Erasures through the worker's own code, with every transaction failing in either way, and another application."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from state.periods import MS_PER_DAY, parse_scales
from stream.settings import App, Settings, Topics
from stream.testing import Failure, Harness, TransactionFailed, tiny_bundle
from stream.testing.bundle import FIRST_DAY, N_INTERESTS
from tests.plain import PlainEvent
from tests.plain import bags as plain_bags

BUNDLE = tiny_bundle()
USERS = [f"user-{i}" for i in range(4)]


def event(user: str, interest: int, day: int) -> dict[str, Any]:
    return {"user_id": user, "item_id": f"item-{interest}", "ts": (FIRST_DAY + day) * MS_PER_DAY}


events = st.builds(event, st.sampled_from(USERS), st.integers(0, N_INTERESTS - 1), st.integers(0, 120))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(events, min_size=1, max_size=6)),
        st.tuples(st.just("erase"), st.lists(st.sampled_from(USERS), min_size=1, max_size=3)),
        st.tuples(st.just("encode"), st.none()),
        st.tuples(st.just("fail"), st.sampled_from(Failure)),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=14,
)


@settings(max_examples=25)
@given(steps)
def test_whatever_fails_exactly_what_was_sent_after_a_user_s_erasure_counts_in_every_application(
    steps: list[Any],
) -> None:
    sent: list[PlainEvent] = []
    named = Topics(partitions=2)
    with Harness(BUNDLE, Settings(topics=named)) as harness:
        for name, detail in [*steps, ("restart", False), ("encode", None)]:
            if name == "send":
                sent += [plain(each) for each in detail]
            elif name == "erase":
                sent = [each for each in sent if each.user.decode() not in detail]
            try:
                do(harness, name, detail)
            except TransactionFailed:
                harness.restart()
        check(harness, sent)
        other = Harness(BUNDLE, Settings(app=App(id="next"), topics=named.model_copy(update={"embeddings": "next"})))
        other.topics = harness.topics
        with other:
            other.apply()
            other.encode()
            check(other, sent)
    assert not [user for user in USERS if user.encode() in remembered(harness)], "no user stands in plain for ever"


def do(harness: Harness, name: str, detail: Any) -> None:
    if name == "send":
        harness.send(*detail)
    elif name == "erase":
        harness.erase(*detail)
    elif name == "encode":
        harness.encode()
    elif name == "fail":
        harness.topics.failure = detail
    else:
        harness.topics.failure = None
        harness.restart(lose_disk=detail)


def check(harness: Harness, counted: list[PlainEvent]) -> None:
    found = {(user.encode(), *where): bag for user in USERS for where, bag in harness.bags(user).items()}
    assert found == plain_bags(counted, parse_scales("day,month"))
    assert harness.ledger.balanced
    alive = {each.user.decode() for each in counted}
    assert {user for user in USERS if harness.embedding(user) is not None} == alive


def plain(sent: dict[str, Any]) -> PlainEvent:
    return PlainEvent(sent["user_id"].encode(), int(sent["item_id"].removeprefix("item-")), sent["ts"])


def remembered(harness: Harness) -> bytes:
    """All bytes of the erasures topic."""
    topic = harness.settings.erasures_topic
    return b"".join(
        (each.key or b"") + (each.value or b"") for number in range(2) for each in harness.topics.read(topic, number)
    )
