"""Failpoints: the steps of a worker, or a repartition, at which a test can end, halt or delay it; off by default.

``LURM_FAILPOINT=batch.committed:3`` kills the worker the third time it passes that step. ``batch.sent:1=SIGSTOP`` sends
itself that signal instead, ``encode.started:1=2.5`` waits so many seconds in the thread that passes, and
``batch.merged:2=raise`` raises there what nobody expects. ``recovery.replayed:3+=1`` waits at each from the third.
"""

import logging
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from stream.errors import ConfigInvalid

VARIABLE: Final = "LURM_FAILPOINT"
STEPS: Final = (
    "batch.decoded",
    "batch.merged",
    "batch.sent",  # and acknowledged, within the open transaction
    "batch.offset_sent",  # the transaction holds everything, its commit comes next
    "batch.committed",
    "batch.applied",
    "encode.started",  # in the executor thread
    "encode.encoded",
    "encode.sent",
    "encode.committed",
    "encode.cleared",
    "roll_up.sent",
    "roll_up.committed",
    "roll_up.applied",
    "note.sent",  # the published watermark alone
    "note.committed",
    "note.applied",
    "erase.started",
    "erase_embedding.sent",
    "erase_embedding.committed",
    "erase.sent",
    "erase.offset_sent",
    "erase.committed",
    "erase.applied",
    "check.sent",  # what an erasure has left in the store
    "check.committed",
    "begin.sent",  # which topic is read, before its first event
    "begin.offset_sent",
    "begin.committed",
    "begin.applied",
    "recovery.replayed",  # one batch of the changelog
    "repartition.sent",  # one row, perhaps not acknowledged yet
    "repartition.written",  # all rows, not compared yet
    "repartition.sent_on",  # and all waiting events
)
_ACTION = r"(?P<signal>SIG[A-Z]+)|(?P<wait_s>\d+(\.\d+)?)|(?P<error>raise)"
_FORM = re.compile(rf"(?P<step>[a-z_.]+)(:(?P<passage>[1-9]\d*)(?P<on>\+)?)?(=({_ACTION}))?")


class _Failpoint:
    """The failpoint of this process: no step, until one is armed."""

    def __init__(self) -> None:
        self._step = ""
        self._passages_left = 0
        self._again = False
        self._act: Callable[[], None] = partial(_send_self, signal.SIGKILL)

    def arm(self, text: str) -> None:
        """Act at the step that ``text`` names. **Raises** `ConfigInvalid` for what names none."""
        found = _FORM.fullmatch(text)
        if found is None or found["step"] not in STEPS or not hasattr(signal, found["signal"] or "SIGKILL"):
            raise ConfigInvalid(
                f"no such failpoint: {VARIABLE}={text}; STEP[:PASSAGE[+]][=SIGNAL|=SECONDS|=raise], "
                f"steps: {', '.join(STEPS)}"
            )
        self._step, self._passages_left = found["step"], int(found["passage"] or 1)
        self._again = found["on"] is not None
        if found["wait_s"]:
            self._act = partial(time.sleep, float(found["wait_s"]))
        elif found["error"]:
            self._act = partial(_raise, self._step)
        else:
            self._act = partial(_send_self, signal.Signals[found["signal"] or "SIGKILL"])

    def disarm(self) -> None:
        """Act at no step."""
        self._step = ""

    def passing(self, step: str) -> None:
        """Say that the step was just done."""
        if step == self._step:
            self._passages_left -= 1
            if self._passages_left == 0 or (self._again and self._passages_left < 0):
                self._act()


def _send_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _raise(step: str) -> NoReturn:
    raise RuntimeError(f"raised at a failpoint: step={step}")


_failpoint = _Failpoint()
passing = _failpoint.passing


def arm_from_environment() -> None:
    """Arm what the environment names, if anything. **Raises** `ConfigInvalid`."""
    text = os.environ.get(VARIABLE)
    if text:
        _failpoint.arm(text)
        logging.getLogger("lurm").warning("this process is armed to fail: %s=%s", VARIABLE, text)
