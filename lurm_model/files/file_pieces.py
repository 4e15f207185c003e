"""Files of rows, a piece at a time: CSV, JSON lines (plain or ``.gz``) and Parquet may be larger than memory.

A piece is a table, or lines, and the number of each of its rows in the file. In CSV the header is row 1 and a row may
be several lines; in JSON lines rows are lines, in Parquet they count from 1. A refusal names file and row.
"""

import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from lurm_model.errors import EventsFileError
from lurm_model.files.lines import lines_of, refuse_utf16

logger = logging.getLogger("lurm")

# How much text is read at once, and 32 times ahead by pyarrow; also the longest row a CSV file may have.
PIECE_BYTES = 2 << 20
# How many rows of a Parquet file are read at once.
PIECE_ROWS = 1 << 16
# How much of a value that is refused is shown.
SHOWN_MAX = 80
# What says which column is meant, in files of events and items.
COLUMN_OPTIONS = "--column, or --attribute"
# What separates columns of files that are called CSV.
SEPARATORS = frozenset(";\t|")
CSV, JSON_LINES, PARQUET = "csv", "json lines", "parquet"
KINDS = {".csv": CSV, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".parquet": PARQUET}

# What pyarrow says of such a row. Its handler of invalid rows would say it too, but not of one that is no UTF-8.
WRONG_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
# What msgspec says of an id, or a type, that is a number.
WRONG_NUMBER = re.compile(r"Expected `str(?: \| null)?`, got `int` - at `\$\.(user_id|item_id|type)`")

Rows = Sequence[int]
Choose = Callable[[Sequence[str]], Sequence[str]]
T = TypeVar("T")


def kind_of(path: Path) -> str:
    """What kind of file this is, by its name."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = KINDS.get(suffix.lower())
    if kind is None or (kind == PARQUET and path.suffix == ".gz"):
        raise EventsFileError(f"unknown kind of file, use one of {', '.join(KINDS)} (or .gz of text): file={path}")
    return kind


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being read, in one line."""
    try:
        yield
    except OSError as error:
        raise EventsFileError(
            f"cannot read the file: file={path} reason={error.strerror or one_line(error)}"
        ) from error
    except (EOFError, UnicodeDecodeError, pa.ArrowException, zlib.error) as error:
        raise EventsFileError(f"cannot read the file: file={path} reason={one_line(error)}") from error


def csv_pieces(path: Path, choose: Choose, delimiter: str = ",") -> Iterator[tuple[Any, Rows]]:
    """The chosen columns of a CSV file as bytes, checked for their number in every row."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=delimiter)
    # With threads a row does not know its number.
    read = pyarrow.csv.ReadOptions(block_size=PIECE_BYTES, use_threads=False)
    row = 2
    with pa.input_stream(path, compression="detect") as file:
        refuse_utf16(path, file.read(2))
    try:
        with pyarrow.csv.open_csv(path, read, parse) as head:
            wanted = list(choose(head.schema.names))
        types = dict.fromkeys(wanted, pa.binary())
        convert = pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=types, strings_can_be_null=False)
        with pyarrow.csv.open_csv(path, read, parse, convert) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch]), range(row, row + len(batch))
                row += len(batch)
        if _has_quotes(path):
            _warn_of_hidden_lines(path, row - 1)
    except pa.ArrowInvalid as error:
        if wrong := WRONG_ROW.search(str(error)):
            number, header, columns = wrong.groups()
            refuse(path, int(number), "another number of columns than the header", columns=columns, header=header)
        if "straddling" in str(error):
            raise EventsFileError(
                f"a row is longer than {PIECE_BYTES} bytes, is a quote not closed?: file={path} row>={row}"
            ) from error
        raise


def _has_quotes(path: Path) -> bool:
    with pa.input_stream(path, compression="detect") as file:
        while data := file.read(PIECE_BYTES):
            if b'"' in data:
                return True
    return False


def _warn_of_hidden_lines(path: Path, n_rows: int) -> None:
    """Say that quoted texts hold lines: a quote that is not closed swallows rows, and no count would show it."""
    n_lines, tail = 0, b"\n"
    with pa.input_stream(path, compression="detect") as file:
        while data := file.read(PIECE_BYTES):
            text = tail + data
            n_lines += data.count(b"\n") - _n_blank(text)
            tail = text[text.rfind(b"\n") :]
    n_lines += tail != b"\n"
    if n_lines > n_rows:
        logger.warning(
            "texts of several lines hide %d lines of the file: if it has no such texts, a quote is not closed: "
            "file=%s rows=%d lines=%d",
            n_lines - n_rows, path, n_rows, n_lines,
        )  # fmt: skip


def _n_blank(text: bytes) -> int:
    """How many blank lines follow on lines that end in this text."""
    if b"\n\n" not in text and b"\n\r\n" not in text:
        return 0
    seen = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(seen == ord("\n"))
    gaps = np.diff(ends)
    return int(np.count_nonzero((gaps == 1) | ((gaps == 2) & (seen[ends[1:] - 1] == ord("\r")))))


def parquet_pieces(path: Path, choose: Choose) -> Iterator[tuple[Any, Rows]]:
    """The chosen columns of a Parquet file, some rows at a time: a row group may be the whole file."""
    row = 1
    with pyarrow.parquet.ParquetFile(path, buffer_size=PIECE_BYTES) as file:
        wanted = list(choose(file.schema_arrow.names))
        for batch in file.iter_batches(PIECE_ROWS, columns=wanted):
            table = pa.Table.from_batches([batch])
            table.validate(full=True)
            yield table, range(row, row + len(table))
            row += len(table)


def line_pieces(path: Path) -> Iterator[tuple[list[bytes], list[int]]]:
    """The lines that are not blank."""
    row = 1
    for lines in lines_of(path, PIECE_BYTES):
        there = [(line, number) for number, line in enumerate(lines, row) if line.strip()]
        row += len(lines)
        if there:
            yield [line for line, _ in there], [number for _, number in there]


def decode(decoder: msgspec.json.Decoder[T], text: bytes, path: Path, row: int, what: str = "") -> T:
    """A line, or a value in it."""
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        named = WRONG_NUMBER.search(str(error))
        hint = f"; --column {named[1]}={named[1]} takes whole numbers too" if named else ""
        refuse(path, row, what + one_line(error) + hint)


def fields_of(line: bytes, path: Path, row: int) -> list[str]:
    """The names a line of JSON has."""
    return list(decode(msgspec.json.Decoder(dict[str, msgspec.Raw]), line, path, row))


def check_columns(
    path: Path, required: Sequence[str], names: Sequence[str], row: int = 1, options: str = COLUMN_OPTIONS
) -> None:
    """Refuse a file without these columns, or with one of them twice; ``options`` would name others."""
    counts = Counter(names)
    have = f"file={path} row={row} have={','.join(names)}"
    if len(names) == 1 and not counts.keys() >= set(required) and (found := SEPARATORS.intersection(names[0])):
        shown = "tab" if "\t" in found else min(found)
        raise EventsFileError(f"the columns are not separated by commas: {have}; say by what: --delimiter '{shown}'")
    if missing := [name for name in required if not counts[name]]:
        raise EventsFileError(f"column is missing: missing={','.join(missing)} {have}; say which it is with {options}")
    if twice := [name for name in required if counts[name] > 1]:
        raise EventsFileError(f"column stands twice: column={twice[0]} {have}")


def texts(path: Path, table: Any, name: str, rows: Rows) -> Any:
    """A column as one array of texts; what is not a number (NaN) is null."""
    column = table[name]
    if pa.types.is_nested(column.type):
        refuse(path, rows[0] if len(rows) else 1, f"{name} must be single values", type=column.type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return column.cast(pa.string()).combine_chunks()
    except pa.ArrowInvalid:
        valid = pa.array([_is_text(value) for value in column.to_pylist()], pa.bool_())
        check(path, valid, rows, f"{name} is not UTF-8")
        raise


def check(path: Path, valid: Any, rows: Rows, reason: str, **shown: Any) -> None:
    """Refuse the first row that is not valid, with its values of these columns; nulls are not valid."""
    bad = np.flatnonzero(~pc.fill_null(valid, False).to_numpy(zero_copy_only=False).astype(bool))
    if len(bad):
        index = int(bad[0])
        refuse(path, rows[index], reason, **{name: column[index] for name, column in shown.items()})


def refuse(path: Path, row: int, reason: str, **facts: object) -> NoReturn:
    """Say what is wrong with a row."""
    shown = "".join(f"{name}={one_line(value)[:SHOWN_MAX]} " for name, value in facts.items())
    raise EventsFileError(f"{reason}: {shown}file={path} row={row}")


def one_line(what: object) -> str:
    """An error or a value as text without line breaks."""
    return " ".join(str(what).split())


def _is_text(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
