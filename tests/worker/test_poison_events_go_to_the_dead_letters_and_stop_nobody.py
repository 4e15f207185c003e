import json
import time
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaProducer

from stream.kafka.connection import client_arguments
from stream.kafka.topics import MESSAGE_BYTES_MAX, message_bytes_max
from stream.outcomes import Reason
from stream.records.dead_letters import PREFIX
from stream.settings import Settings
from tests.brokers import Broker, producer, read_records
from tests.plain import PlainEvent
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, value_of, wait_applied

NOW_MS = int(time.time() * 1000)


def as_json(**changes: Any) -> bytes:
    return json.dumps({"user_id": "user-1", "item_id": "item-1", "ts": NOW_MS} | changes).encode()


POISON: list[tuple[bytes | None, bytes | None, Reason]] = [
    (b"user-1", b"{", Reason.NOT_JSON),
    (b"user-1", b"\xff\xfe\x00", Reason.NOT_JSON),
    (b"user-1", None, Reason.NOT_JSON),
    (b"user-1", b'{"user_id":"user-1","ts":1}', Reason.MISSING_FIELD),
    (b"user-1", as_json(ts="yesterday"), Reason.WRONG_TYPE),
    (b"a\0b", as_json(user_id="a\0b"), Reason.WRONG_TYPE),
    (b"user-2", as_json(), Reason.KEY_MISMATCH),
    (None, as_json(), Reason.KEY_MISMATCH),
    (b"user-1", as_json(note="x" * 70_000), Reason.TOO_LARGE),
    (b"user-1", as_json(ts=NOW_MS + 3 * 86_400_000), Reason.FUTURE),
    (b"user-1", as_json(ts=-(2**60)), Reason.TOO_OLD),
    (b"user-1", as_json(ts=NOW_MS // 1000), Reason.WRONG_UNIT),
]


def test_poison_events_go_to_the_dead_letters_and_stop_nobody(settings: Settings, make_worker: MakeWorker) -> None:
    assert {reason for *_, reason in POISON} == set(Reason)
    traffic = Traffic(settings, seed=4)
    worker = make_worker(settings).ready()
    sent = {}
    for key, value, reason in POISON * 3:
        traffic.send(40)
        with producer(settings) as client:
            at = client.send(settings.topics.events, value, key, headers=[("trace", b"7")]).get(10)
        sent[at.partition, at.offset] = (key, value, reason)
    wait_applied(settings, worker)
    numbers = range(settings.topics.partitions)
    for letter in read_records(settings, settings.topics.dead_letters, numbers):
        headers = {name: value.decode() for name, value in letter.headers}
        key, value, reason = sent.pop((letter.partition, int(headers[f"{PREFIX}offset"])))
        assert (letter.key, letter.value, headers[f"{PREFIX}reason"]) == (key, value, reason)
        assert (headers["trace"], headers[f"{PREFIX}topic"]) == ("7", settings.topics.events)
        assert headers[f"{PREFIX}partition"] == str(letter.partition)
    assert not sent
    check_exact(settings, traffic.sent, n_rejected=3 * len(POISON))
    check_published(settings)
    for reason in Reason:
        expected = 3 * sum(each is reason for *_, each in POISON)
        assert worker.metric("lurm_rejections_total", reason=reason.value) == expected
    outcomes = {name: worker.metric("lurm_events_total", outcome=name) for name in ("received", "applied", "rejected")}
    assert outcomes["received"] == outcomes["applied"] + outcomes["rejected"]


class Latin1(str):
    """A header's name as a client writes it that does not care about UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_events_with_a_header_that_is_no_utf_8_are_counted_or_rejected_like_others(
    settings: Settings, make_worker: MakeWorker, compression: str | None
) -> None:
    traffic, worker = Traffic(settings, seed=54), make_worker(settings).ready()
    event = PlainEvent(b"user-1", 3, NOW_MS)
    with producer(settings, compression=compression) as client:
        for value in (value_of(event), b"{", value_of(event)):
            client.send(settings.topics.events, value, b"user-1", headers=[(Latin1("caf\u00e9"), b"7"), ("plain", b"")])
    traffic.sent += [event, event]
    traffic.send(40)
    wait_applied(settings, worker)
    (letter,) = read_records(settings, settings.topics.dead_letters, range(settings.topics.partitions))
    assert (letter.key, letter.value, *letter.headers[:2]) == (b"user-1", b"{", ("caf\ufffd", b"7"), ("plain", b""))
    check_exact(settings, traffic.sent, n_rejected=1)
    check_published(settings)
    # The commands read with another client.
    assert len(read_records(settings, settings.topics.events, range(settings.topics.partitions))) == 43


@pytest.mark.kafka
def test_the_largest_events_that_the_broker_takes_go_to_the_dead_letters_too(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """One as large as the events topic takes grows by our headers; a compressed one may be larger than any takes."""
    settings = settings_on(kafka_broker.brokers)
    traffic, worker = Traffic(settings, seed=52), make_worker(settings).ready()
    largest = b"x" * (message_bytes_max(settings, settings.topics.events) - 100)
    larger = b"x" * (MESSAGE_BYTES_MAX + 1)
    sent = [(largest, None), (larger, "gzip")]
    for value, compression in sent:
        traffic.send(40)
        arguments = client_arguments(settings.kafka) | {"max_request_size": 1 << 24, "compression_type": compression}
        with closing(KafkaProducer(**arguments)) as client:
            client.send(settings.topics.events, value, b"user-1").get(10)
    wait_applied(settings, worker)
    letters = read_records(settings, settings.topics.dead_letters, range(settings.topics.partitions))
    assert [(letter.key, letter.value) for letter in letters] == [(b"user-1", largest), (b"user-1", None)]
    whole, cut = ({name: value.decode() for name, value in letter.headers} for letter in letters)
    assert f"{PREFIX}bytes" not in whole
    assert int(cut[f"{PREFIX}bytes"]) > len(larger)
    assert cut[f"{PREFIX}reason"] == Reason.TOO_LARGE.value
    check_exact(settings, traffic.sent, n_rejected=2)
    check_published(settings)
