"""Calendar scales against the standard library's calendar."""

import datetime

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from state.periods import MS_PER_DAY, SCALES, TS_MS_MAX, TS_MS_MIN, day_of, window_start

EPOCH = datetime.date(1970, 1, 1).toordinal()
dates = st.dates(datetime.date(1, 2, 1), datetime.date(9999, 12, 31))


def number_of(date: datetime.date) -> int:
    return date.toordinal() - EPOCH


def expected_label(name: str, date: datetime.date) -> str:
    week = date.isocalendar()
    return {
        "day": date.isoformat(),
        "week": f"{week.year:04d}-W{week.week:02d}",
        "month": f"{date.year:04d}-{date.month:02d}",
        "quarter": f"{date.year:04d}-Q{(date.month + 2) // 3}",
        "year": f"{date.year:04d}",
    }[name]


@given(dates)
@example(datetime.date(2000, 2, 29))
@example(datetime.date(1999, 12, 31))
@example(datetime.date(1969, 12, 31))
def test_every_scale_names_the_period_the_calendar_names(date: datetime.date) -> None:
    day = np.array([number_of(date)])
    for name, scale in SCALES.items():
        assert scale.label(int(scale.of_day(day)[0])) == expected_label(name, date)


@given(dates)
def test_the_first_day_of_a_period_is_in_it_and_the_day_before_is_not(date: datetime.date) -> None:
    day = np.array([number_of(date)])
    for scale in SCALES.values():
        period = scale.of_day(day)
        first = scale.first_day(period)
        assert first[0] <= day[0]
        assert scale.of_day(first)[0] == period[0]
        assert scale.of_day(first - 1)[0] == period[0] - 1


@given(dates)
def test_the_window_starts_with_the_calendar_month_before(date: datetime.date) -> None:
    before = (date.replace(day=1) - datetime.timedelta(days=1)).replace(day=1)
    assert window_start(np.array([number_of(date)]))[0] == number_of(before)


@given(st.integers(TS_MS_MIN, TS_MS_MAX))
@example(TS_MS_MIN)
@example(TS_MS_MAX)
@example(-1)
@example(0)
def test_a_time_stamp_belongs_to_the_utc_day_it_falls_in(ts_ms: int) -> None:
    day = int(day_of(np.array([ts_ms]))[0])
    assert day * MS_PER_DAY <= ts_ms < (day + 1) * MS_PER_DAY
    assert datetime.date.min <= datetime.date.fromordinal(EPOCH + day) <= datetime.date.max
