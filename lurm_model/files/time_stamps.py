"""Time stamps as files have them: whole numbers of seconds or milliseconds, ISO 8601 texts, or Parquet's own types."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm_model.files.file_pieces import Rows, check, refuse
from state.periods import TS_MS_MAX, TS_MS_MIN, Int64

# From 1973-03-03 on a number says by its size what it is: seconds reach the second bound in the year 5138, where
# milliseconds begin again with 1973. Smaller numbers may be anything, and are nothing until the unit is given.
SECONDS_MIN, MS_MIN = 10**8, 10**11
DIGITS = r"^-?[0-9]{1,18}$"
_DATE, _TIME, _ZONE = r"\d{4}-\d{2}-\d{2}", r"\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?", r"(Z|[+-]\d{2}(:?\d{2})?)"
ISO = rf"^{_DATE}([T ]{_TIME}{_ZONE}?)?$"
_HINT = "--time-unit s, ms or iso names the file's unit"


def unit_of(number: int) -> str | None:
    """What unit a number must have by its size; None where it cannot be told."""
    if SECONDS_MIN <= abs(number) < MS_MIN:
        return "s"
    return "ms" if MS_MIN <= abs(number) <= TS_MS_MAX else None


class TimeStamps:
    """The time stamps of one file, piece by piece. Invariant: all have one unit, given or told by the first of them."""

    def __init__(self, path: Path, unit: str) -> None:
        self._path, self._unit, self._is_told = path, unit, False

    def read(self, column: Any, rows: Rows) -> Int64:
        """A column in Unix milliseconds, int64[n]; text without a zone is UTC."""
        if not len(column):
            return np.zeros(0, np.int64)
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return self._dates(column, rows)
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            refuse(self._path, rows[0], "ts must be integers, ISO 8601 texts or timestamps", type=kind)
        check(self._path, column.is_valid(), rows, "ts is empty")
        if self._unit == "auto":
            self._unit = self._told_by(column[0].as_py(), rows[0])
            # By itself, before the others are held against it.
            self._read(column[:1], rows[:1])
            self._is_told = True
        return self._read(column, rows)

    def _read(self, column: Any, rows: Rows) -> Int64:
        return self._texts(column, rows) if self._unit == "iso" else self._numbers(column, rows)

    def _told_by(self, first: int | str, row: int) -> str:
        if isinstance(first, str) and not (first.removeprefix("-").isdecimal() and len(first) < 19):
            if not re.match(ISO, first):
                refuse(self._path, row, "ts is neither whole seconds or milliseconds nor an ISO 8601 text", ts=first)
            return "iso"
        unit = unit_of(int(first))
        if unit is None:
            refuse(self._path, row, f"ts is too small or too large to tell its unit, {_HINT}", ts=first)
        return unit

    def _numbers(self, column: Any, rows: Rows) -> Int64:
        if not pa.types.is_integer(column.type):
            digits = pc.match_substring_regex(column, DIGITS)
            check(self._path, digits, rows, self._misfit(), ts=column)
        if pa.types.is_uint64(column.type):
            check(self._path, pc.less_equal(column, pa.scalar(TS_MS_MAX, pa.uint64())), rows, self._misfit(), ts=column)
        numbers = column.cast(pa.int64()).to_numpy()
        scale = 1000 if self._unit == "s" else 1
        valid = (numbers >= TS_MS_MIN // scale) & (numbers <= TS_MS_MAX // scale)
        if self._is_told:
            size = np.abs(numbers)
            valid &= (size >= SECONDS_MIN) & (size < MS_MIN) if self._unit == "s" else size >= MS_MIN
        check(self._path, pa.array(valid), rows, self._misfit(), ts=column)
        return np.asarray(numbers * scale, np.int64)

    def _texts(self, column: Any, rows: Rows) -> Int64:
        column = column.cast(pa.string())
        fits = pc.match_substring_regex(column, ISO)
        check(self._path, fits, rows, self._misfit(), ts=column)
        whole = pc.if_else(pc.equal(pc.utf8_length(column), 10), pc.binary_join_element_wise(column, "T00", ""), column)
        # Behind a time only: the date's own hyphens look like a zone.
        zoned = pc.match_substring_regex(whole, rf"[T ].*{_ZONE}$")
        whole = pc.if_else(zoned, whole, pc.binary_join_element_wise(whole, "Z", ""))
        whole = pc.replace_substring_regex(whole, r"(\.\d{3})\d+", r"\1")
        return self._dates(self._parsed(whole, column, rows), rows, column)

    def _parsed(self, whole: Any, column: Any, rows: Rows) -> Any:
        kind = pa.timestamp("ms", "UTC")
        try:
            return whole.cast(kind)
        except pa.ArrowInvalid:
            for index, text in enumerate(whole):
                try:
                    text.cast(kind)
                except pa.ArrowInvalid:
                    refuse(self._path, rows[index], self._misfit(), ts=column[index])
            raise

    def _dates(self, column: Any, rows: Rows, shown: Any = None) -> Int64:
        """Of Parquet's own types, or of what was parsed of the texts ``shown``."""
        if self._unit in {"s", "ms"}:
            refuse(self._path, rows[0], f"ts is a {column.type} already, leave out --time-unit")
        check(self._path, column.is_valid(), rows, "ts is empty")
        if pa.types.is_timestamp(column.type):
            # The numbers are UTC in any zone; in local time an hour of the year is ambiguous.
            column = column.cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.timestamp(column.type.unit))
            column = pc.floor_temporal(column, unit="millisecond") if column.type.unit in {"us", "ns"} else column
        numbers = column.cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
        valid = pa.array((numbers >= TS_MS_MIN) & (numbers <= TS_MS_MAX))
        # A time of other years cannot be shown as one.
        shown = pa.array(numbers) if shown is None else shown
        check(self._path, valid, rows, "ts is no date of the years 1 to 9999", ts=shown)
        return np.asarray(numbers, np.int64)

    def _misfit(self) -> str:
        what = {"s": "no date in seconds", "ms": "no date in milliseconds", "iso": "no ISO 8601 text"}[self._unit]
        return f"ts is {what}" + (f", as the file's first is, {_HINT}" if self._is_told else "")
