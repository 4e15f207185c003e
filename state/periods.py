"""Calendar scales: which period of a scale a day belongs to, all in UTC.

A *day number* counts days since 1970-01-01 and may be negative. Every scale numbers its periods with consecutive
integers, so that "the previous period" is always ``period - 1``. Everything here is vectorised and pure.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

MS_PER_DAY = 86_400_000
_EPOCH = datetime.date(1970, 1, 1).toordinal()
# A time stamp must be a date people can write down: the years 1 to 9999 of the proleptic Gregorian calendar.
TS_MS_MIN = -62_135_596_800_000
TS_MS_MAX = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class Scale:
    """One calendar granularity; ``code`` is its byte in a row's key.

    Which days of a period were active is a word of bits, one for ``days_per_bit`` days, so that any period fits.
    """

    name: str
    code: int
    of_day: Callable[[Int64], Int64]
    first_day: Callable[[Int64], Int64]
    label: Callable[[int], str]
    days_per_bit: int = 1

    def active_bit(self, day: Int64, period: Int64) -> Int64:
        """The bit of each of these days in the word of its period."""
        return 1 << ((day - self.first_day(period)) // self.days_per_bit)


def day_of(ts_ms: Int64) -> Int64:
    """Day numbers of Unix times in milliseconds."""
    return ts_ms // MS_PER_DAY


def _calendar(day: Int64, unit: str) -> Int64:
    return day.astype("datetime64[D]").astype(f"datetime64[{unit}]").astype(np.int64)


def _first_day(period: Int64, unit: str) -> Int64:
    return period.astype(f"datetime64[{unit}]").astype("datetime64[D]").astype(np.int64)


def _as_date(day: int) -> datetime.date:
    return datetime.date.fromordinal(_EPOCH + int(day))


def _week_label(week: int) -> str:
    year, number, _ = _as_date(week * 7 - 3).isocalendar()
    return f"{year:04d}-W{number:02d}"


DAY = Scale("day", ord("d"), lambda day: day, lambda day: day, lambda day: _as_date(day).isoformat())
# 1970-01-01 was a Thursday: weeks start on Mondays, as in ISO 8601.
WEEK = Scale("week", ord("w"), lambda day: (day + 3) // 7, lambda week: week * 7 - 3, _week_label)
MONTH = Scale(
    "month",
    ord("m"),
    lambda day: _calendar(day, "M"),
    lambda month: _first_day(month, "M"),
    lambda month: f"{1970 + month // 12:04d}-{month % 12 + 1:02d}",
)
QUARTER = Scale(
    "quarter",
    ord("q"),
    lambda day: _calendar(day, "M") // 3,
    lambda quarter: _first_day(quarter * 3, "M"),
    lambda quarter: f"{1970 + quarter // 4:04d}-Q{quarter % 4 + 1}",
    days_per_bit=2,
)
YEAR = Scale(
    "year",
    ord("y"),
    lambda day: _calendar(day, "Y"),
    lambda year: _first_day(year, "Y"),
    lambda year: f"{1970 + year:04d}",
    days_per_bit=6,
)

SCALES = {scale.name: scale for scale in (DAY, WEEK, MONTH, QUARTER, YEAR)}
SCALE_BY_CODE = {scale.code: scale for scale in SCALES.values()}


def parse_scales(names: str) -> tuple[Scale, ...]:
    """The scales named in ``"day,month"``, finest first.

    **Raises** ``ValueError`` for an unknown or repeated name, and when ``day`` is missing: every event writes its day.
    """
    parts = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in parts if name not in SCALES]
    if unknown:
        raise ValueError(f"unknown scale {unknown[0]!r}, known: {', '.join(SCALES)}")
    if len(set(parts)) != len(parts):
        raise ValueError(f"a scale stands twice in {names!r}")
    if "day" not in parts:
        raise ValueError(f"the scale 'day' is missing in {names!r}: every event writes its day's row")
    return tuple(scale for name, scale in SCALES.items() if name in parts)


def format_scales(scales: tuple[Scale, ...]) -> str:
    """The inverse of `parse_scales`."""
    return ",".join(scale.name for scale in scales)


def window_start(newest_day: Int64) -> Int64:
    """First day of a user's window: the start of the calendar month before the one of the user's newest event.

    **Source**: our decision; a window that moves once a month is one whose recurrence can be cached.
    """
    return MONTH.first_day(MONTH.of_day(newest_day) - 1)
