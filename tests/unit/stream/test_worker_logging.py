import logging

from stream.commands.worker import Sparing


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
