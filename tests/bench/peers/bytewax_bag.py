"""The peer: day bags per user in Bytewax, in memory, without recovery: its fastest way, which keeps nothing.

usage: bytewax_bag.py BOOTSTRAP TOPIC EVENTS
"""

import json
import os
import sys
import time
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

brokers, topic, n = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Clock:
    """When the first event was parsed, and how many have come to the end."""

    start_s = 0.0
    seen = 0


class End(StatelessSinkPartition[Any]):
    """Counts what arrives, and says how fast when all has."""

    def write_batch(self, items: list[Any]) -> None:
        Clock.seen += len(items)
        if Clock.seen >= n:
            print("events_per_s", round(n / (time.perf_counter() - Clock.start_s)), flush=True)
            os._exit(0)


class Sink(DynamicSink[Any]):
    """One end for every worker."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> End:
        return End()


def parse(message: Any) -> tuple[str, dict[str, Any]]:
    """The event under its user."""
    Clock.start_s = Clock.start_s or time.perf_counter()
    event = json.loads(message.value)
    return event["user_id"], event


def update(days: Any, event: dict[str, Any]) -> tuple[Any, None]:
    """Add the event to its user's bag of its day."""
    days = {} if days is None else days
    bag = days.setdefault(event["ts"] // 86_400_000, {})
    interest = int(event["item_id"][1:]) * 2654435761 % 100_000
    bag[interest] = bag.get(interest, 0) + 1
    return days, None


flow = Dataflow("bag")
messages = op.input("in", flow, KafkaSource([brokers], [topic], starting_offset=-2, batch_size=5000))
op.output("out", op.stateful_map("update", op.map("parse", messages, parse), update), Sink())
run_main(flow)
