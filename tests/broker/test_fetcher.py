import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

import stream.kafka.fetcher  # noqa: F401 - changes how aiokafka ends
from stream.kafka.topics import create_missing
from tests.brokers import Broker, fresh_settings
from tests.workers import wait_until


def test_a_consumer_ends_though_a_fetch_waits_to_try_again(own_broker: Broker) -> None:
    """Else a worker that is stopped while its broker is dead hangs."""
    own_broker.start()
    settings = fresh_settings(own_broker.brokers)
    create_missing(settings)
    partition = TopicPartition(settings.topics.events, 0)

    async def scenario() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=own_broker.brokers, retry_backoff_ms=60_000)
        await consumer.start()
        consumer.assign([partition])
        consumer.seek(partition, 0)
        fetches = consumer._fetcher._pending_tasks
        await asyncio.to_thread(wait_until, lambda: bool(fetches))
        await asyncio.to_thread(own_broker.kill)
        # With nobody there a fetch fails at once, and waits.
        await asyncio.sleep(1)
        assert fetches
        await asyncio.wait_for(consumer.stop(), 10)

    asyncio.run(scenario())
