"""The worker's event loops: uvloop's, which wait a second at most for a broker's goodbye over TLS.

uvloop alone now and then misses it and waits half a minute: longer than a worker may take to stop, and a partition that
changes hands stands still meanwhile. asyncio's own loop does not.
"""

import asyncio
from typing import Any, Final

import uvloop

_GOODBYE_S: Final = 1.0


class _Loop(uvloop.Loop):  # type: ignore[misc]
    async def create_connection(self, *arguments: Any, ssl: Any = None, **options: Any) -> Any:
        if ssl:
            options.setdefault("ssl_shutdown_timeout", _GOODBYE_S)
        return await super().create_connection(*arguments, ssl=ssl, **options)


class LoopPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops, for every thread."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop that the current thread does not know yet."""
        loop: asyncio.AbstractEventLoop = _Loop()
        return loop
