"""`lurm worker` in which SIGRTMIN halts the first partition in the midst of a batch, and lets it go on again."""

import asyncio
import signal
import sys
from typing import Any

from stream.cli import run
from stream.partition import Partition

apply, halted = Partition._apply, False


def turn(*_: object) -> None:
    """Halt, or go on."""
    global halted  # noqa: PLW0603 - a signal handler has nothing else to change
    halted = not halted


async def apply_if_allowed(self: Partition, *arguments: Any) -> None:
    """Stand in for a broker that keeps one partition's transaction waiting."""
    while halted and self.number == 0:  # noqa: ASYNC110 - a signal handler wakes no loop
        await asyncio.sleep(0.01)
    await apply(self, *arguments)


Partition._apply = apply_if_allowed  # type: ignore[method-assign]
signal.signal(signal.SIGRTMIN, turn)
sys.exit(run(["worker"]))
