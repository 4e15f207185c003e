"""`lurm worker` of another version, as a rolling deploy brings it: the name of our table, then more as NAME:STORE."""

import sys
from typing import Any

import stream.worker.app
from stream.cli import run
from stream.settings import Settings

OURS, *MORE = sys.argv[1:]


class Worker(stream.worker.app.Worker):
    """Has more tables."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for table in MORE:
            name, store = table.split(":")
            self.app.Table(name, partitions=self.settings.topics.partitions, store=f"{store}://{name}")


stream.worker.app.TABLE = OURS  # type: ignore[misc]
stream.worker.app.Worker = Worker  # type: ignore[misc,assignment]
Settings.changelog_topic = property(lambda self: f"{self.app.id}-{OURS}-changelog")  # type: ignore[method-assign,assignment]
sys.exit(run(["worker"]))
