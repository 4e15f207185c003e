"""Topics are made as planned, and whatever else is found is named before it can lose anything."""

import asyncio
import threading

import numpy as np
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from state.bags import Bags
from state.rows import encode_values
from stream.errors import ConfigInvalid
from stream.kafka.connection import admin
from stream.kafka.topics import BATCH_BYTES, check, create_missing, end_offsets, ensure, n_partitions, plan, topic_id
from stream.kafka.transactions import TransactionalProducer
from stream.records.outgoing import Outgoing
from stream.settings import Settings, Topics
from tests.brokers import MakeSettings, producer, read_records
from tests.workers import wait_until


def _make(settings: Settings, name: str, partitions: int, **configs: str) -> None:
    shape = {"num_partitions": partitions, "replication_factor": -1}
    with admin(settings) as client:
        client.create_topics({name: shape | {"configs": {k.replace("_", "."): v for k, v in configs.items()}}})
        client.wait_for_topics([name])


def _configs(settings: Settings, name: str) -> dict[str, str]:
    with admin(settings) as client:
        found = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
    return {key: entry["value"] for key, entry in found["topic"][name].items()}


def test_missing_topics_are_made_as_planned_and_only_once(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=3)
    names = [each.name for each in plan(settings)]
    assert [problem.found for problem in check(settings)] == ["no such topic"] * 7
    assert sorted(create_missing(settings)) == sorted(names)
    assert create_missing(settings) == []
    assert check(settings) == []
    for each in plan(settings):
        assert n_partitions(settings, each.name) == (1 if each.name == settings.topics.items else 3)
        assert each.configs.items() <= _configs(settings, each.name).items()
    for name in (settings.changelog_topic, settings.topics.embeddings):
        assert _configs(settings, name)["delete.retention.ms"] == "604800000"


def test_a_worker_makes_all_but_the_events_topic(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(ConfigInvalid, match=r"events topic does not exist.*`lurm topics create`"):
        ensure(settings)
    assert len(check(settings)) == 7, "nothing was made beside a missing events topic"
    _make(settings, settings.topics.events, 2)
    ensure(settings)
    assert check(settings) == []


def test_workers_that_start_together_agree(make_settings: MakeSettings) -> None:
    settings = make_settings()
    failures: list[Exception] = []

    def make() -> None:
        try:
            create_missing(settings)
        except ConfigInvalid as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert check(settings) == []


def test_a_wrong_number_of_partitions_says_what_to_do(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=2)
    create_missing(settings)
    other = settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 3})})
    first = check(other)[0]
    assert (first.topic, first.found, first.wanted) == (settings.topics.events, "2 partitions", "3 partitions")
    with pytest.raises(ConfigInvalid, match=r"found 2 partitions, wanted 3 .*LURM_TOPICS__PARTITIONS=2.*5 more"):
        ensure(other)


@pytest.mark.parametrize(
    ("key", "configs", "found"),
    [
        ("embeddings", {"cleanup_policy": "delete"}, "cleanup.policy=delete"),
        ("changelog", {"cleanup_policy": "delete"}, "cleanup.policy=delete"),
        ("changelog", {"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete"),
        ("changelog", {"cleanup_policy": "compact", "delete_retention_ms": "1000"}, "delete.retention.ms=1000"),
        (
            "changelog",
            {"cleanup_policy": "compact", "delete_retention_ms": "604800000", "max_message_bytes": "100000"},
            "max.message.bytes=100000",
        ),
        ("events", {"cleanup_policy": "compact"}, "cleanup.policy=compact"),
        ("dead_letters", {"cleanup_policy": "compact"}, "cleanup.policy=compact"),
        ("items", {"cleanup_policy": "delete"}, "cleanup.policy=delete"),
        ("erasures", {"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete"),
        ("dead_letters", {"max_message_bytes": "1048588"}, "max.message.bytes=1048588"),
    ],
)
def test_a_topic_that_would_lose_data_is_refused(
    key: str, configs: dict[str, str], found: str, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    own = {"changelog": settings.changelog_topic, "erasures": settings.erasures_topic}
    name = own.get(key) or getattr(settings.topics, key)
    _make(settings, name, 2, **configs)
    create_missing(settings)
    problems = check(settings)
    assert {problem.topic for problem in problems} == {name}
    assert problems[0].found == found
    with pytest.raises(ConfigInvalid, match=f"topic {name}: found {found}, wanted .*kafka-configs"):
        ensure(settings)


def test_an_items_topic_may_have_any_number_of_partitions(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=2)
    _make(settings, settings.topics.items, 5, cleanup_policy="compact")
    assert settings.topics.items not in create_missing(settings)
    assert check(settings) == []


def test_an_erasures_topic_has_at_least_a_partition_for_each_of_the_events(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=2)
    _make(settings, settings.erasures_topic, 3, cleanup_policy="compact")
    create_missing(settings)
    assert check(settings) == []
    more = settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 4})})
    (found,) = [each for each in check(more) if each.topic == settings.erasures_topic]
    assert "kafka-topics.sh --alter" in found.remedy


def test_an_embeddings_topic_may_also_expire(make_settings: MakeSettings) -> None:
    settings = make_settings()
    _make(settings, settings.topics.embeddings, 2, cleanup_policy="compact,delete", delete_retention_ms="604800000")
    create_missing(settings)
    assert check(settings) == []


def test_an_embeddings_topic_that_forgets_erasures_sooner_than_the_changelog_is_named_and_refuses_nobody(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings()
    _make(settings, settings.topics.embeddings, 2, cleanup_policy="compact", delete_retention_ms="86400000")
    create_missing(settings)
    (problem,) = check(settings)
    assert (problem.topic, problem.found) == (settings.topics.embeddings, "delete.retention.ms=86400000")
    assert "--add-config delete.retention.ms=604800000" in problem.remedy
    ensure(settings)
    assert str(problem) in caplog.text


def test_two_topics_cannot_share_a_name() -> None:
    with pytest.raises(ConfigInvalid, match=r"topics\.events and topics.embeddings=same"):
        plan(Settings(topics=Topics(events="same", embeddings="same")))


@pytest.mark.parametrize("topics", [Topics(events="no such name"), Topics(events="x" * 249 + "", replication=99)])
def test_what_the_broker_refuses_is_misuse(topics: Topics, make_kafka_settings: MakeSettings) -> None:
    with pytest.raises(ConfigInvalid, match="the broker did not make the topic"):
        create_missing(make_kafka_settings(topics=topics))


@pytest.mark.kafka
def test_a_recreated_topic_has_another_id(make_kafka_settings: MakeSettings) -> None:
    settings = make_kafka_settings()
    name = settings.topics.events
    assert topic_id(settings, name) is None
    _make(settings, name, 2)
    first = topic_id(settings, name)
    with admin(settings) as client:
        client.delete_topics([name])
    while n_partitions(settings, name):
        pass
    _make(settings, name, 2)
    assert None not in (first, topic_id(settings, name))
    assert topic_id(settings, name) != first


def test_end_offsets_are_those_of_every_partition(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=3)
    assert end_offsets(settings, settings.topics.events) == {}
    create_missing(settings)
    with producer(settings) as client:
        for _ in range(4):
            client.send(settings.topics.events, b"x", partition=1)
        client.flush()
    assert end_offsets(settings, settings.topics.events) == {0: 0, 1: 4, 2: 0}


def test_the_changelog_must_take_a_row_of_every_interest(make_kafka_settings: MakeSettings) -> None:
    settings = make_kafka_settings()
    create_missing(settings, n_interests=100_000)
    assert check(settings, n_interests=1_000_000) == []
    (problem,) = check(settings, n_interests=2_000_000)
    assert problem.topic == settings.changelog_topic
    assert f"max.message.bytes={16_000_542}" in str(problem)
    create_missing(larger := make_kafka_settings(), n_interests=2_000_000)
    assert check(larger, n_interests=2_000_000) == []


def test_a_row_of_a_hundred_thousand_interests_travels_among_small_ones(make_settings: MakeSettings) -> None:
    settings = make_settings()
    create_missing(settings)
    bags = Bags(np.array([0, 1, 100_001, 100_002]), np.arange(100_002, dtype=np.uint32), np.ones(100_002, np.uint32))
    values = encode_values(np.arange(3), np.arange(3), bags)
    rows = [Outgoing(b"%d" % i, value) for i, value in enumerate(values)]

    async def send() -> None:
        producer = TransactionalProducer(settings.kafka, settings.app.id, 0)
        await producer.start()
        try:
            assert await producer.transact("batch", {settings.changelog_topic: rows}, 1) == {
                settings.changelog_topic: 2
            }
        finally:
            await producer.stop()

    asyncio.run(send())
    found = read_records(settings, settings.changelog_topic, [0])
    assert [(record.key, record.value) for record in found] == [(row.key, row.value) for row in rows]
    assert max(map(len, values)) > BATCH_BYTES


def test_embeddings_and_control_topics_that_take_too_small_messages_are_named(
    make_kafka_settings: MakeSettings,
) -> None:
    """The broker would refuse the first batch, and every worker that starts again the same one."""
    settings = make_kafka_settings()
    create_missing(settings)
    for name, largest in ((settings.topics.embeddings, BATCH_BYTES - 1), (settings.control_topic, 1000)):
        with admin(settings) as client:
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": str(largest)})])
        # The broker learns of it from its log, a moment later.
        wait_until(lambda: check(settings))
        (problem,) = check(settings)
        assert (problem.topic, problem.found) == (name, f"max.message.bytes={largest}")
        assert "kafka-configs.sh --alter" in problem.remedy
        with pytest.raises(ConfigInvalid, match=f"max.message.bytes={largest}"):
            ensure(settings)
        with admin(settings) as client:
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "1048576"})])
        wait_until(lambda: not check(settings))
