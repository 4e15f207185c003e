"""`lurm worker` in which SIGRTMIN halts the first partition where the argument says, and lets it go on again.

``apply``: in the midst of a batch; ``publish``: in the midst of a transaction of embeddings.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any

from stream.cli import run
from stream.kafka.transactions import TransactionalProducer
from stream.partition.partition import Partition

PLACES: dict[str, tuple[type, str, Callable[[Any], bool]]] = {
    "apply": (Partition, "_apply", lambda partition: partition.number == 0),
    "publish": (TransactionalProducer, "_send", lambda producer: producer.id.endswith("-embeddings-0")),
}
owner, name, is_first = PLACES[sys.argv[1]]
go_on, halted = getattr(owner, name), False


def turn(*_: object) -> None:
    """Halt, or go on."""
    global halted  # noqa: PLW0603 - a signal handler has nothing else to change
    halted = not halted


async def go_on_if_allowed(self: Any, *arguments: Any) -> Any:
    """Stand in for a broker that keeps one partition waiting."""
    while halted and is_first(self):  # noqa: ASYNC110 - a signal handler wakes no loop
        await asyncio.sleep(0.01)
    return await go_on(self, *arguments)


setattr(owner, name, go_on_if_allowed)
signal.signal(signal.SIGRTMIN, turn)
sys.exit(run(["worker"]))
