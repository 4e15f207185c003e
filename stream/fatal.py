"""The one way a worker ends when it cannot go on: loudly, at once, without handing anything over.

State is written changelog first and every batch is one transaction, so ending anywhere is safe; going on is not.
"""

import logging
import os
import sys
from typing import Final, NoReturn

from state.errors import SpaceMismatch, StoreCorrupt
from stream.errors import LurmError, permission_missing
from stream.exits import ENDING

# EX_SOFTWARE of sysexits.h: a supervisor restarts the worker, which then recovers.
EXIT_FATAL: Final = 70
EXIT_MISUSE: Final = 2


def die(reason: BaseException | str, how: str | None = None) -> NoReturn:
    """Log why and end the process; operator errors keep their exit code and are one line, all else is 70."""
    if isinstance(reason, BaseException):
        reason = permission_missing(reason) or reason
    exit_code = exit_code_of(reason)
    logging.getLogger("lurm").critical(
        "the worker ends: %s",
        reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}",
        exc_info=None if isinstance(reason, str | LurmError | SpaceMismatch | StoreCorrupt) else reason,
        extra={ENDING: how or ("failed" if exit_code == EXIT_FATAL else "refused")},
    )
    end(exit_code)


def end(exit_code: int) -> NoReturn:
    """End the process at once, with all of its log written."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(exit_code)


def exit_code_of(reason: BaseException | str) -> int:
    """The exit code this reason ends a worker with."""
    if isinstance(reason, LurmError):
        return reason.exit_code
    return EXIT_MISUSE if isinstance(reason, SpaceMismatch) else EXIT_FATAL
