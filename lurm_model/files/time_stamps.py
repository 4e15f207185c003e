"""Time stamps as files have them: whole numbers of seconds or milliseconds, ISO 8601 texts, or Parquet's own types."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm_model.files.file_pieces import Rows, check, one_line, refuse
from state.periods import TS_MS_MAX, TS_MS_MIN, Int64

# From 1973-03-03 on a number says by its size what it is: seconds reach the second bound in the year 5138, where
# milliseconds begin again with 1973, and so on. Smaller numbers may be anything: nothing, until the unit is given.
SECONDS_MIN, MS_MIN, US_MIN, NS_MIN = 10**8, 10**11, 10**14, 10**17
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# What a number of each unit is multiplied with, and then divided by, to be milliseconds.
SCALES = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_SIZES = {"s": (SECONDS_MIN, MS_MIN), "ms": (MS_MIN, US_MIN), "us": (US_MIN, NS_MIN), "ns": (NS_MIN, 2**63)}
DIGITS = r"^-?[0-9]{1,19}$"
# A year to the day, minute or second, written without a sign between: it would pass for a number of milliseconds.
CALENDAR = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_CALENDAR_YEARS = range(1970, 2101)
_DATE, _TIME, _ZONE = r"\d{4}-\d{2}-\d{2}", r"\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?", r"(Z|[+-]\d{2}(:?\d{2})?)"
ISO = rf"^{_DATE}([T ]{_TIME}{_ZONE}?)?$"
_AFTER_SHORT_MONTHS = pa.array([3, 5, 7, 10, 12])
# What Python's parser does not know of the C library's patterns.
_SHORT_FOR = {"%F": "%Y-%m-%d", "%D": "%m/%d/%y", "%T": "%H:%M:%S", "%R": "%H:%M", "%e": "%d", "%h": "%b"}
_SOME_DAY = datetime(2021, 8, 17, 13, 47, 59, tzinfo=UTC)
_HINT = "--time-unit s, ms, us, ns, iso or a pattern such as %Y%m%d names the file's unit"


def unit_of(number: int) -> str | None:
    """What unit a number must have by its size; None where it cannot be told."""
    return next((unit for unit, (least, end) in _SIZES.items() if least <= abs(number) < end), None)


def calendar_pattern(number: int) -> str | None:
    """The pattern by which a number reads as a date of our time, such as 20240105103000; None if it does not."""
    pattern = CALENDAR.get(len(str(number)))
    try:
        found = datetime.strptime(str(number), pattern) if pattern else None  # noqa: DTZ007 - only whether it is one
    except ValueError:
        return None
    return pattern if found and found.year in _CALENDAR_YEARS else None


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
        if "%" in self._unit:
            return self._by_pattern(column, rows)
        return self._texts(column, rows) if self._unit == "iso" else self._numbers(column, rows)

    def _told_by(self, first: int | str, row: int) -> str:
        if isinstance(first, str) and not (first.removeprefix("-").isdecimal() and len(first) < 20):
            if not re.match(ISO, first):
                refuse(self._path, row, f"ts is neither a whole number nor an ISO 8601 text, {_HINT}", ts=first)
            return "iso"
        number = int(first)
        if pattern := calendar_pattern(number):
            meant = f"--time-unit {pattern} reads it so, --time-unit {unit_of(number) or 's'} as a number"
            refuse(self._path, row, f"ts looks like a date written as a number, {meant}", ts=first)
        unit = unit_of(number)
        if unit is None:
            refuse(self._path, row, f"ts is too small or too large to tell its unit, {_HINT}", ts=first)
        return unit

    def _numbers(self, column: Any, rows: Rows) -> Int64:
        if not pa.types.is_integer(column.type):
            digits = pc.match_substring_regex(column, DIGITS)
            check(self._path, digits, rows, self._misfit(), ts=column)
            fits = pc.less_equal(pc.utf8_length(pc.utf8_ltrim(column, "-")), 18)
            column = column if pc.all(fits).as_py() else self._long_numbers(column, rows)
        if pa.types.is_uint64(column.type):
            largest = pa.scalar(2**63 - 1, pa.uint64())
            check(self._path, pc.less_equal(column, largest), rows, self._misfit(), ts=column)
        numbers = column.cast(pa.int64()).to_numpy()
        times, divisor = SCALES[self._unit]
        valid = (numbers >= _scaled(TS_MS_MIN, divisor) // times) & (numbers <= _scaled(TS_MS_MAX, divisor) // times)
        if self._is_told:
            least, end = _SIZES[self._unit]
            size = np.abs(numbers)
            valid &= (size >= least) & (size <= end - 1)
        check(self._path, pa.array(valid), rows, self._misfit(), ts=column)
        return np.asarray(numbers * times // divisor, np.int64)

    def _long_numbers(self, column: Any, rows: Rows) -> Any:
        """Texts of 19 digits, which may be too large for 64 bits."""
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            fits = pa.array([abs(int(text)) < 2**63 for text in column.to_pylist()])
            check(self._path, fits, rows, self._misfit(), ts=column)
            raise

    def _by_pattern(self, column: Any, rows: Rows) -> Int64:
        """Texts, or numbers as texts, as the pattern says; UTC."""
        column = column.cast(pa.string())
        try:
            found = pc.strptime(column, format=self._unit, unit="s", error_is_null=True)
        except pa.ArrowInvalid as error:
            refuse(self._path, rows[0], f"--time-unit {self._unit} is no pattern of a time: {one_line(error)}")
        check(self._path, found.is_valid(), rows, f"ts is not written as --time-unit {self._unit} says", ts=column)
        if not _says_when(self._unit):
            refuse(self._path, rows[0], f"--time-unit {self._unit} is no pattern of a date with its year", ts=column[0])
        self._refuse_moved_days(found, column, rows)
        return self._dates(found, rows, column)

    def _refuse_moved_days(self, found: Any, column: Any, rows: Rows) -> None:
        """Arrow reads February 30 as the first or second of March; Python's own parser refuses such a day."""
        # What was moved is one of the month's first three days, or beside them in a zone of its own.
        later = pc.add(found, timedelta(days=1))
        after_short = pc.is_in(pc.month(later), value_set=_AFTER_SHORT_MONTHS)
        doubtful = np.flatnonzero(pc.and_(after_short, pc.less_equal(pc.day(later), 5)).to_numpy(zero_copy_only=False))
        written = column.take(pa.array(doubtful))
        again = pc.strftime(found.take(pa.array(doubtful)).cast(pa.timestamp("s", "UTC")), format=self._unit)
        # What is not written as the same time would be is rare, and parsed by itself.
        odd = np.flatnonzero(pc.not_equal(written, again).to_numpy(zero_copy_only=False))
        for index in odd.tolist():
            if _is_no_day(text := written[index].as_py(), self._unit):
                refuse(self._path, rows[int(doubtful[index])], "ts is a day that its month does not have", ts=text)

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
        if self._unit in SCALES:
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
        what = "no ISO 8601 text" if self._unit == "iso" else f"no date in {_NAMES[self._unit]}"
        return f"ts is {what}" + (f", as the file's first is, {_HINT}" if self._is_told else "")


@lru_cache
def _says_when(pattern: str) -> bool:
    """Whether a time that is written by this pattern is read as that year's; a week's year, %G, is left out."""
    text = _SOME_DAY.strftime(pattern)
    found = pc.strptime(pa.array([text]), format=pattern, unit="s", error_is_null=True)[0].as_py()
    return found is None or found.year == _SOME_DAY.year


@lru_cache
def _is_no_day(text: str, pattern: str) -> bool:
    for short, whole in _SHORT_FOR.items():
        pattern = pattern.replace(short, whole)
    try:
        datetime.strptime(text, pattern)  # noqa: DTZ007 - only whether it is one
    except (ValueError, re.error) as error:
        return "out of range" in str(error)
    return False


def _scaled(ms: int, divisor: int) -> int:
    """The bound in the smaller unit, as far as 64 bits go."""
    return max(-(2**63), min(ms * divisor, 2**63 - 1))
