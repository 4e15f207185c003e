"""Ids of users and items as files have them, in one spelling whatever the file's type: text, whole numbers, UUIDs.

A number is written without a fraction: 17850, 17850.0 (what pandas makes of whole numbers beside an empty cell) and a
decimal 17850.00 are one user. A text is taken as it is, zeros in front included. What only stands for nothing (`nan`,
`NULL`, ...) is no id, nor is a number that lost digits, nor in CSV a text of several lines, which a stray quote makes.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm_model.files.file_pieces import Rows, check, refuse, texts

# What pandas, R, SQL dumps and JavaScript write for nothing.
NULL_WORDS: Final = (
    "nan", "NaN", "NAN", "None", "null", "NULL", "Null", "NA", "N/A", "n/a", "#N/A", "<NA>", "<null>", r"\N", "NaT",
    "undefined",
)  # fmt: skip
_NULLS: Final = pa.array(NULL_WORDS)
WHOLE: Final = r"^(-?[0-9]+)\.0+$"
_ROUNDED: Final = r"^-?[0-9](\.[0-9]+)?[eE]\+[0-9]+$"


def ids(path: Path, table: Any, name: str, rows: Rows) -> Any:
    """A column of ids as one array of texts, none of them empty. **Raises** `EventsFileError`, naming the row."""
    column = table[name]
    kind = column.type
    if isinstance(kind, pa.UuidType):
        column = _uuids(path, column.combine_chunks(), name, rows)
    elif pa.types.is_floating(kind):
        column = _whole(path, column, name, rows)
    column = texts(path, pa.table({name: column}), name, rows)
    check(path, pc.greater(pc.binary_length(column), 0), rows, f"{name} is empty")
    held = _bytes_of(column)
    if b"." in held:
        column = pc.replace_substring_regex(column, WHOLE, r"\1")
        if pa.types.is_decimal(kind):
            _check_not(path, pc.match_substring(column, "."), name, column, rows, "is no whole number")
    is_null = pc.is_in(column, value_set=_NULLS)
    _check_not(path, is_null, name, column, rows, "is a word for nothing, leave such rows out")
    if b"+" in held:
        rounded = pc.match_substring_regex(column, _ROUNDED)
        _check_not(path, rounded, name, column, rows, "is a number that was rounded, write ids as text")
    if pa.types.is_binary(kind) and (b"\n" in held or b"\r" in held):
        lines = pc.match_substring_regex(column, r"[\r\n]")
        _check_not(path, lines, name, column, rows, "spans several lines of the CSV file, is a quote not closed?")
    return column


def _bytes_of(column: Any) -> bytes:
    """All texts of an array in one piece: what is in none of them need not be looked for in each."""
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return b""
    ends = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]]
    held: bytes = data.slice(int(ends[0]), int(ends[1] - ends[0])).to_pybytes()
    return held


def _check_not(path: Path, bad: Any, name: str, column: Any, rows: Rows, what: str) -> None:
    if pc.any(bad).as_py():
        check(path, pc.invert(bad), rows, f"{name} {what}", **{name: column})


def _whole(path: Path, column: Any, name: str, rows: Rows) -> Any:
    """Floating numbers that are whole; not a number (NaN) is null."""
    column = pc.if_else(pc.is_nan(column), None, column)
    numbers = pc.fill_null(column, 0).to_numpy()
    # Below this a type holds every whole number, doubles below 2^53; from there on neighbours are one.
    bits = np.finfo(numbers.dtype).nmant + 1
    wide = numbers.astype(np.float64)
    fits = (np.abs(wide) < 2.0**bits) & (wide == np.floor(wide))
    check(path, pa.array(fits), rows, f"{name} must be a text or a whole number below 2^{bits}", **{name: column})
    whole = pa.array(wide.astype(np.int64))
    return pc.if_else(pc.is_valid(column), whole, pa.scalar(None, pa.int64()))


def _uuids(path: Path, column: Any, name: str, rows: Rows) -> Any:
    """Their usual text, 8-4-4-4-12 digits."""
    check(path, column.is_valid(), rows, f"{name} is empty")
    storage = column.storage
    if not isinstance(storage, pa.FixedSizeBinaryArray):
        refuse(path, rows[0], f"{name} is an unknown kind of UUID", type=storage.type)
    packed = b"".join(storage.to_pylist()).hex().encode()
    digits = np.frombuffer(packed, np.uint8).reshape(len(storage), 32)
    text = np.full((len(storage), 36), ord("-"), np.uint8)
    places = [i for i in range(36) if i not in {8, 13, 18, 23}]
    text[:, places] = digits
    return pa.array(text.reshape(-1).view("S36"), pa.binary()).cast(pa.string())
