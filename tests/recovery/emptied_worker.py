"""`lurm worker` in which, after SIGRTMIN, Faust turns its flow on again just when a changelog batch waits.

A recovery does that several times, with standbys that are read already.
"""

import signal
import sys
from typing import Any

import stream.worker.app
from stream.cli import run


class Worker(stream.worker.app.Worker):
    """Can be told to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        signal.signal(signal.SIGRTMIN, self.resume_at_next)

    def resume_at_next(self, *_: object) -> None:
        """Once per signal."""
        queue = self.app.tables.changelog_queue
        put = queue.force_put_nowait

        def put_and_resume(item: object) -> None:
            put(item)
            queue.force_put_nowait = put
            self.app.flow_control.resume()

        queue.force_put_nowait = put_and_resume


stream.worker.app.Worker = Worker  # type: ignore[misc,assignment]
sys.exit(run(["worker"]))
