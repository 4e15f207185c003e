from types import SimpleNamespace

from stream.outcomes import Reason
from stream.records.arrival import LeftOut
from stream.records.dead_letters import PREFIX, Place, dead_letter, dead_letters
from stream.records.events import Rejection

HERE = Place("events", 3)
MIB = 1 << 20


def rejection(value: bytes, key: bytes = b"user-1") -> Rejection:
    record = SimpleNamespace(offset=7, timestamp=5, key=key, value=value, headers=[("trace", b"7")])
    return Rejection(record, Reason.TOO_LARGE, "why")


def test_events_of_a_batch_are_repeated_only_as_far_as_it_was_sent() -> None:
    rejections = [rejection(b"x" * 1000)] * 5
    assert [len(letter.value or b"") for letter in dead_letters(rejections, HERE, MIB, 3_500)] == [1000] * 3 + [0] * 2
    assert all(letter.value for letter in dead_letters(rejections, HERE, MIB))
    cut = dead_letters(rejections, HERE, MIB, 0)[0]
    assert (cut.key, cut.value) == (b"user-1", None)
    assert int(dict(cut.headers or [])[f"{PREFIX}bytes"]) > 1000


def test_of_an_event_that_was_not_read_the_dead_letter_says_how_large_it_is() -> None:
    letter = dead_letter(rejection(LeftOut.of(40 * MIB)), HERE, 1 << 30)
    assert letter.value is None
    assert dict(letter.headers or [])[f"{PREFIX}bytes"] == b"%d" % (40 * MIB)
