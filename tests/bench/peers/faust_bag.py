"""The peer: day bags per user in a plain Faust table, at least once, RocksDB with changelog.

usage: faust_bag.py BOOTSTRAP TOPIC EVENTS
"""

import os
import sys
import tempfile
import time
from typing import Any

import faust

brokers, topic, n = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Event(faust.Record, serializer="json"):
    """An event as it stands in the topic."""

    user_id: str
    item_id: str
    ts: int
    type: str


app = faust.App(
    f"faust-{time.time_ns()}",
    broker=f"kafka://{brokers}",
    store="rocksdb://",
    topic_partitions=4,
    datadir=tempfile.mkdtemp(),
    web_enabled=False,
)
events = app.topic(topic, key_type=str, value_type=Event, partitions=4, key_serializer="raw")
bags = app.Table("bags", default=dict, partitions=4, key_type=str)


@app.agent(events)
async def update(stream: Any) -> None:
    """Add each event to its user's bag of its day, and say how fast when all are seen."""
    seen, start_s = 0, 0.0
    async for event in stream:
        start_s = start_s or time.perf_counter()
        key = f"{event.user_id}:{event.ts // 86_400_000}"
        bag = bags[key]
        interest = str(int(event.item_id[1:]) * 2654435761 % 100_000)
        bag[interest] = bag.get(interest, 0) + 1
        bags[key] = bag
        seen += 1
        if seen == n:
            # Faust takes what is printed for a log.
            print("events_per_s", round(n / (time.perf_counter() - start_s)), file=sys.__stdout__, flush=True)
            os._exit(0)


sys.argv[1:] = ["worker", "--loglevel", "warn"]
app.main()
