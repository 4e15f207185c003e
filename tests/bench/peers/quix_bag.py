"""The peer: day bags per user in Quix Streams, exactly once, RocksDB with changelog.

usage: quix_bag.py BOOTSTRAP TOPIC EVENTS
"""

import sys
import tempfile
import time
from typing import Any

from quixstreams import Application
from quixstreams.state import State

brokers, topic, n = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Count:
    """Adds each event to its user's bag of its day, and says how fast when it has seen them all."""

    def __init__(self) -> None:
        self.seen, self.start_s = 0, 0.0

    def update(self, event: dict[str, Any], state: State) -> dict[str, Any]:
        self.start_s = self.start_s or time.perf_counter()
        day = f"d{event['ts'] // 86_400_000}"
        bag = state.get(day, {})
        interest = str(int(event["item_id"][1:]) * 2654435761 % 100_000)
        bag[interest] = bag.get(interest, 0) + 1
        state.set(day, bag)
        self.seen += 1
        if self.seen == n:
            print("events_per_s", round(n / (time.perf_counter() - self.start_s)), flush=True)
            app.stop()
        return event


app = Application(
    broker_address=brokers,
    consumer_group=f"quix-{time.time_ns()}",
    auto_offset_reset="earliest",
    state_dir=tempfile.mkdtemp(),
    processing_guarantee="exactly-once",
    commit_interval=1.0,
    loglevel="WARNING",
)
source = app.topic(topic, value_deserializer="json", key_deserializer="str")
app.dataframe(source).apply(Count().update, stateful=True)
app.run()
