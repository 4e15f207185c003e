"""`lurm worker` in which SIGRTMIN makes Faust's consumer go on reading the changelog of partitions that are owned."""

import signal
import sys
from typing import Any

import stream.worker.app
from stream.cli import run


class Worker(stream.worker.app.Worker):
    """Can be told to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        signal.signal(signal.SIGRTMIN, self.read_changelog)

    def read_changelog(self, *_: object) -> None:
        """What a rebalance at a bad moment does."""
        consumer = self.app.consumer
        consumer.resume_partitions([tp for tp in consumer.assignment() if tp.topic == self.settings.changelog_topic])


stream.worker.app.Worker = Worker  # type: ignore[misc,assignment]
sys.exit(run(["worker"]))
