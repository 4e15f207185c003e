"""What a signal to stop does to a worker.

Faust stops its services in order, which hands the partitions over. While they are still being started that order is not
reliable: a service that starts as it is stopped was seen to end the process with a traceback, or not at all. But a
worker that was never assigned anything has nothing to hand over, so it says goodbye to its group and is gone.
"""

import asyncio
import logging
import signal
from contextlib import suppress
from typing import Final

import faust

from stream.driver.faust_app import LurmApp
from stream.exits import ExitLog
from stream.fatal import end

logger = logging.getLogger("lurm")

_GOODBYE_S: Final = 3.0


class FaustWorker(faust.Worker):  # type: ignore[misc]
    """Faust's host of an app, which says nothing of its own and ends a worker that holds nothing at once."""

    app: LurmApp

    def __init__(self, app: LurmApp, exits: ExitLog) -> None:
        super().__init__(app, loglevel="WARN", redirect_stdouts=False, override_logging=False, quiet=True)
        self.spinner = None
        self._exits = exits
        self._goodbye: asyncio.Task[None] | None = None

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        if self.app.ownership.was_assigned:
            super()._schedule_shutdown(number)
        elif self._goodbye is None:
            self._goodbye = self.loop.create_task(self._leave(number))

    async def _leave(self, number: signal.Signals) -> None:
        # If it fails or takes too long, as before there is a consumer, the group finds out a session later.
        with suppress(Exception):
            async with asyncio.timeout(_GOODBYE_S):
                await self.app.consumer.leave_group()
        if self.app.ownership.was_assigned:
            # In the meantime.
            super()._schedule_shutdown(number)
            return
        logger.info("stopped before anything was assigned")
        self._exits.note("stopped")
        end(0)
