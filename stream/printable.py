"""Text of others on a terminal: ids, names and errors may hold control characters, which must not reach it.

What is not printable (controls of ASCII and Latin-1, U+2028, marks that turn the direction of writing, lone surrogates)
is written as an escape, as Python and JSON spell it. All that a command prints goes through `say` or `say_json`, all
that is logged through `Formatter`.
"""

import logging
import re
from typing import Any

import click
import msgspec

_ASCII_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
_encode_json = msgspec.json.Encoder().encode


def printable(text: str) -> str:
    """The text in one line, with what is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def json_bytes(entry: Any) -> bytes:
    """JSON in one line, with what is not printable escaped, which changes no value."""
    line = _encode_json(entry)
    if line.isascii() and not _ASCII_CONTROLS.search(line):
        return line
    text = line.decode()
    return "".join(char if char.isprintable() else _json_escape(char) for char in text).encode()


def say(*lines: str, err: bool = False) -> None:
    """Print each in a line of its own."""
    for line in lines:
        click.echo(printable(line), err=err)  # noqa: TID251 - this is the one place


def say_json(entry: Any) -> None:
    """Print an object as one line of JSON."""
    click.echo(json_bytes(entry))  # noqa: TID251


class Formatter(logging.Formatter):
    """One line for a message, whatever stands in it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The message of a record."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """A traceback."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def configure_logging(level: str) -> None:
    """Log to stderr from this level on, as every command that runs for long does."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2]):04x}" for i in range(0, len(units), 2))
