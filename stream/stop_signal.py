"""Waits for the signal that ends a command."""

import select
import signal
import socket
from typing import Final

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """SIGTERM or SIGINT, from when this is made; make it in the main thread.

    No `threading.Event` that the handler sets: Python runs handlers in the main thread, between two steps of its own,
    and one that has just begun to wait does so for ever (a console was seen that never ended).
    """

    def __init__(self) -> None:
        self._received, told = socket.socketpair()
        told.setblocking(False)
        self._told = told
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        for number in _NUMBERS:
            # The handler's reference keeps the sockets open as long as there is a process.
            signal.signal(number, self._ignore)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for it, at most so long; whether it has come."""
        # The byte stays: it has come for everyone who asks later, too.
        return bool(select.select([self._received], [], [], timeout_s)[0])

    def _ignore(self, *_: object) -> None:
        """Without a handler the process would end."""
