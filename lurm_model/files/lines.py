"""Lines of text files, plain or ``.gz``, many at once; neither a file nor a line of it is held whole beyond a limit."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lurm_model.errors import EventsFileError

# No event of this size goes through Kafka; a list of them all, written as one line, is larger.
LINE_BYTES_MAX: Final = 16 << 20
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


def lines_of(path: Path, piece_bytes: int) -> Iterator[list[bytes]]:
    """All lines without their ends, blank ones too, some at a time; a byte order mark is none of the text.

    **Raises** ``OSError``, ``EOFError`` or ``zlib.error``, and `EventsFileError` for a line that is too long and for a
    file in UTF-16: print it and stop.
    """
    row = 1
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        refuse_utf16(path, start := file.read(3))
        rest = start.removeprefix(_UTF8_MARK)
        while data := file.read(piece_bytes):
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            if lines:
                yield lines
            row += len(lines)
            if len(rest) > LINE_BYTES_MAX:
                raise EventsFileError(
                    f"a line is longer than {LINE_BYTES_MAX} bytes, does each hold one JSON object?: "
                    f"file={path} row={row}"
                )
    if rest:
        yield rest.split(b"\n")


def refuse_utf16(path: Path, start: bytes) -> None:
    """**Raises** `EventsFileError` for a file that starts like this."""
    if start.startswith(_UTF16_MARKS):
        raise EventsFileError(f"the file is UTF-16, save it as UTF-8: file={path} row=1")
