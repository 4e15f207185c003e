import asyncio
import time

import pytest

from state.record import PartitionRecord, encode_record
from state.rows import RECORD_KEY
from stream.kafka.clock import Clock
from stream.kafka.topics import create_missing
from stream.kafka.transactions import TransactionalProducer
from stream.kafka.watermark import newest_records
from stream.records.outgoing import Outgoing
from tests.brokers import MakeSettings, read_records

DAY_MS = 86_400_000
BEHIND_MS = 40 * DAY_MS


def clock_behind() -> Clock:
    return Clock(lambda: int(time.time() * 1000) - BEHIND_MS)


def is_told(clock: Clock) -> bool:
    return abs(clock.behind_ms - BEHIND_MS) < DAY_MS


@pytest.mark.kafka
def test_the_end_of_the_last_transaction_tells_a_starting_worker_the_brokers_time(
    make_kafka_settings: MakeSettings,
) -> None:
    settings, clock = make_kafka_settings(), clock_behind()
    create_missing(settings)
    record = encode_record(PartitionRecord("space", "day"))

    async def scenario() -> None:
        producer = TransactionalProducer(settings.kafka, settings.app.id, 0)
        await producer.start()
        await producer.transact("note", {settings.changelog_topic: [Outgoing(RECORD_KEY, record)]}, clock.now_ms())
        await producer.stop()
        assert not is_told(clock)
        # The broker ends a transaction a moment after it said so.
        while not await newest_records(settings.kafka, settings.changelog_topic, [0], clock):
            pass

    asyncio.run(scenario())
    assert is_told(clock)


@pytest.mark.kafka
def test_dead_letters_have_the_brokers_time_and_tell_it(make_kafka_settings: MakeSettings) -> None:
    settings, clock = make_kafka_settings(), clock_behind()
    create_missing(settings)

    async def scenario() -> None:
        producer = TransactionalProducer(settings.kafka, settings.app.id, 0, clock)
        await producer.start()
        await producer.transact("batch", {settings.topics.dead_letters: [Outgoing(b"a", b"1")]}, clock.now_ms())
        await producer.stop()

    asyncio.run(scenario())
    assert is_told(clock)
    (letter,) = read_records(settings, settings.topics.dead_letters, [0])
    assert abs(letter.timestamp - time.time() * 1000) < DAY_MS
