"""Reading a topic from its beginning ends at its committed end, whatever the last offsets hold."""

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition

from state.bags import Bags
from state.record import Ledger, PartitionRecord, encode_record
from state.rows import RECORD_KEY, encode_keys, encode_values
from stream.embedding import headers_of, shared_headers
from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.kafka.connection import client_arguments
from stream.kafka.topics import create_missing
from stream.operations.replay import newest_embeddings, newest_state, only, read_topic, scales_of
from stream.settings import Kafka, Settings, State
from tests.brokers import Broker, MakeSettings, fresh_settings, producer
from tests.conftest import KINDS

DAY, MONTH = ord("d"), ord("m")


def _row(user: bytes, period: int, seq: int, counts: dict[int, int]) -> tuple[bytes, bytes]:
    one = np.ones(1, np.int64)
    (key,) = encode_keys([user], 0 * one, DAY * one, period * one)
    bags = Bags(
        np.array([0, len(counts)]), np.array(list(counts), np.uint32), np.array(list(counts.values()), np.uint32)
    )
    (value,) = encode_values(seq * one, seq * one, bags)
    return key, value


def _values(settings: Settings, topic: str) -> list[bytes]:
    return [record.value for batch in read_topic(settings, topic) for record in batch]


def test_a_transaction_as_the_last_thing_does_not_hold_the_reader(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=3)
    create_missing(settings)
    topic = settings.changelog_topic
    with producer(settings, "t") as client:
        for n, end in enumerate(["commit", "abort", "commit", "abort"]):
            client.begin_transaction()
            for partition in (0, 1):
                client.send(topic, b"%d" % n, b"key", partition=partition).get(10)
            getattr(client, f"{end}_transaction")()
    seen: list[tuple[int, int]] = []
    values = [r.value for batch in read_topic(settings, topic, lambda *at: seen.append(at)) for r in batch]
    assert sorted(values) == [b"0", b"0", b"2", b"2"]
    assert seen[-1] == (16, 16), "both partitions were read past their last control record"


def test_an_open_transaction_neither_shows_nor_blocks(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=1)
    create_missing(settings)
    topic = settings.changelog_topic
    with producer(settings) as plain, producer(settings, "t") as client:
        plain.send(topic, b"before", b"key").get(10)
        client.begin_transaction()
        client.send(topic, b"open", b"key").get(10)
        plain.send(topic, b"behind", b"key").get(10)
        assert _values(settings, topic) == [b"before"]
        client.commit_transaction()
        assert _values(settings, topic) == [b"before", b"open", b"behind"]


def test_an_empty_topic_is_read_at_once_and_a_missing_one_is_named(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(ConfigInvalid, match=f"no such topic: topic={settings.changelog_topic}"):
        newest_state(settings)
    create_missing(settings)
    assert newest_state(settings).rows == {}
    assert newest_embeddings(settings) == {}


def test_what_is_no_embedding_of_ours_hides_no_embedding_and_ends_no_command(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(partitions=1)
    create_missing(settings)
    (headers,) = headers_of(shared_headers("m", "s", (1, 2), "float32"), 0, 1, np.array([5]), np.array([0]))
    with producer(settings) as client:
        for key, value, own in [(b"ann", bytes(8), headers), (b"ann", b"{}", []), (b"", None, []), (b"\xff", None, [])]:
            client.send(settings.topics.embeddings, value, key, own, partition=0).get(10)
    for wanted in (None, only("ann")):
        assert {user: each.seq for user, each in newest_embeddings(settings, wanted).items()} == {"ann": 5}
    assert f"topic={settings.topics.embeddings} partition=0 offset=1" in caplog.text


def test_the_newest_row_wins_and_tombstones_remove(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=2)
    create_missing(settings)
    topic = settings.changelog_topic
    old, new = _row(b"ann", 10, 1, {7: 1}), _row(b"ann", 10, 2, {7: 2})
    gone, other = _row(b"ann", 9, 1, {8: 1}), _row(b"annabel", 10, 3, {9: 1})
    record = PartitionRecord("space", "day,month", next_offset=4, ledger=Ledger(4, 3, 0, 1))
    with producer(settings) as client:
        for key, value in [old, gone, new, (gone[0], None), (RECORD_KEY, encode_record(record))]:
            client.send(topic, value, key, partition=1)
        client.send(topic, other[1], other[0], partition=0)
        client.flush()
    state = newest_state(settings)
    assert state.rows == {0: dict([other]), 1: dict([new])}
    assert state.records == {1: record}
    assert state.ledger == record.ledger
    assert state.users() == [b"ann", b"annabel"]
    assert newest_state(settings, only("ann")).rows == {1: dict([new])}
    partitions, rows = newest_state(settings, only("ann")).of_user(b"ann")
    assert (partitions, rows.seq.tolist(), rows.bags.counts.tolist()) == ([1], [2], [2])
    assert newest_state(settings, only("an")).of_user(b"an")[0] == []
    assert [scale.name for scale in scales_of(settings, state)] == ["day", "month"]
    with pytest.raises(ConfigInvalid, match="other scales: state=day,month LURM_STATE__SCALES=day,week"):
        scales_of(settings.model_copy(update={"state": State(scales="day,week")}), state)


def test_the_reader_stops_at_the_end_it_found_while_others_keep_writing(make_settings: MakeSettings) -> None:
    settings = make_settings(partitions=2)
    create_missing(settings)
    topic = settings.topics.events
    with producer(settings) as client:
        for n in range(2000):
            client.send(topic, b"%d" % n, partition=n % 2)
        client.flush()
        n_read = 0
        for batch in read_topic(settings, topic):
            n_read += len(batch)
            client.send(topic, b"late", partition=0).get(10)
        assert n_read == 2000


@pytest.mark.parametrize("own_broker", [kind for kind in KINDS if kind == "kafka"], indirect=True)
def test_a_broker_that_dies_while_reading_is_reported(own_broker: Broker) -> None:
    """The embedded broker delivers a whole partition in one answer, so nothing would be left to wait for."""
    kafka = {"start_deadline_s": 2.0, "request_timeout_s": 5.0, "fetch_bytes": 1 << 16, "poll_events": 100}
    settings = fresh_settings(own_broker.start().brokers, kafka=Kafka(brokers=own_broker.brokers, **kafka))
    create_missing(settings)
    topic = settings.topics.events
    with producer(settings) as client:
        for _ in range(3000):
            client.send(topic, b"x" * 1000, partition=0)
        client.flush()
    batches = read_topic(settings, topic)
    next(batches)
    own_broker.kill()
    with pytest.raises(BrokerUnavailable, match="stopped"):
        list(batches)


def test_read_committed_ends_are_those_before_an_open_transaction(make_settings: MakeSettings) -> None:
    """What `read_topic` relies on in kafka-python: it asks for the last stable offset."""
    settings = make_settings(partitions=1)
    create_missing(settings)
    with producer(settings, "t") as client:
        client.begin_transaction()
        client.send(settings.topics.events, b"open").get(10)
        ends = {}
        for level in ("read_committed", "read_uncommitted"):
            consumer = KafkaConsumer(**client_arguments(settings.kafka), isolation_level=level)
            try:
                ends[level] = consumer.end_offsets([TopicPartition(settings.topics.events, 0)])
            finally:
                consumer.close()
        client.abort_transaction()
    assert [list(each.values()) for each in ends.values()] == [[0], [1]]
