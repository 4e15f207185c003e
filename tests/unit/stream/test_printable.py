"""What others wrote moves no cursor, hides nothing and forges no line of a log."""

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.printable import Formatter, json_bytes, printable, say

HOSTILE = "\x1b[2J\x9b31m\r\nerror: all is lost\x7f\u2028\u202eresu\u200b\x00\U000e0041"
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@given(st.text() | st.text("\x1b\x9b\u2028\u202e\x7fa\n"))
def test_what_is_printed_holds_no_control_character(text: str) -> None:
    assert not CONTROL.search(printable(text))
    assert printable(text).isprintable()


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    for text in ("", "user-1", "Zoë", "ユーザー", "пользователь", "😀", "a b"):
        assert printable(text) == text
    assert printable("a\x1b[1m\u2028") == "a\\x1b[1m\\u2028"


@given(st.text() | st.just(HOSTILE))
def test_json_keeps_every_value_and_holds_no_control_character(text: str) -> None:
    line = json_bytes({"user_id": text}).decode()
    assert json.loads(line) == {"user_id": text}
    assert line.isprintable()


def test_an_id_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"user={HOSTILE}", "two")
    say(f"user={HOSTILE}", err=True)
    told = capsys.readouterr()
    assert (told.out.count("\n"), told.err.count("\n")) == (2, 1)
    assert not CONTROL.search((told.out + told.err).replace("\n", ""))


def test_a_logged_id_forges_no_line() -> None:
    formatter = Formatter("%(levelname)s %(message)s")
    record = logging.LogRecord("lurm", logging.WARNING, "f", 1, "user=%s", (HOSTILE,), None)
    assert len(formatter.format(record).splitlines()) == 1
    try:
        fail()
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = Formatter("%(message)s").format(record)
    assert "\nTraceback (most recent call last):\n" in text
    assert not CONTROL.search(text.replace("\n", ""))


def fail() -> None:
    raise ValueError(HOSTILE)
