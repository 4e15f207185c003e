import logging

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError

from stream.commands.worker import Sparing, warn_of_retries


def record(name: str, message: str, at_s: float) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "file.py", 1, message, (), None)
    made.created = at_s
    return made


def test_a_library_repeats_itself_only_after_a_while() -> None:
    sparing = Sparing("aiokafka", interval_s=10.0)
    at_s = [at for at in range(35) if sparing.filter(record("aiokafka.client", "no broker: %s", float(at)))]
    assert at_s == [0, 10, 20, 30]


def test_another_message_and_another_library_are_logged() -> None:
    sparing = Sparing("aiokafka", interval_s=10.0)
    assert sparing.filter(record("aiokafka", "first", 0.0))
    assert sparing.filter(record("aiokafka.sender", "second", 0.1))
    assert all(sparing.filter(record("lurm", "ready", 0.2)) for _ in range(3))


@pytest.mark.parametrize(
    ("error", "level"),
    [(GroupCoordinatorNotAvailableError(), "WARNING"), (GroupAuthorizationFailedError("g"), "ERROR"), ("x", "ERROR")],
)
def test_what_is_tried_again_is_a_warning(error: object, level: str) -> None:
    made = logging.LogRecord("aiokafka", logging.ERROR, "file.py", 1, "request failed: %s", (error,), None)
    assert warn_of_retries(made)
    assert made.levelname == level
    assert made.levelno == getattr(logging, level)
