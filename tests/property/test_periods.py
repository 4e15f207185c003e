"""Calendar scales against the standard library's calendar."""

import datetime

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from state.periods import MS_PER_DAY, SCALES, TS_MS_MAX, TS_MS_MIN, day_of, window_start
from stream.soak.reference import in_window, label

EPOCH = datetime.date(1970, 1, 1).toordinal()
dates = st.dates()


def number_of(date: datetime.date) -> int:
    return date.toordinal() - EPOCH


@given(dates)
@example(datetime.date.min)
@example(datetime.date(1900, 2, 28))
@example(datetime.date(1969, 12, 31))
@example(datetime.date(1999, 12, 31))
@example(datetime.date(2000, 2, 29))
@example(datetime.date.max)
def test_every_scale_names_the_period_the_calendar_names(date: datetime.date) -> None:
    day = np.array([number_of(date)])
    for name, scale in SCALES.items():
        assert scale.label(int(scale.of_day(day)[0])) == label(name, int(day[0]))


@given(dates)
def test_the_first_day_of_a_period_is_in_it_and_the_day_before_is_not(date: datetime.date) -> None:
    day = np.array([number_of(date)])
    for scale in SCALES.values():
        period = scale.of_day(day)
        first = scale.first_day(period)
        assert first[0] <= day[0]
        assert scale.of_day(first)[0] == period[0]
        assert scale.of_day(first - 1)[0] == period[0] - 1


@given(st.dates(datetime.date(1, 3, 1)))
@example(datetime.date(2024, 3, 31))
@example(datetime.date(2025, 1, 1))
def test_the_window_starts_with_the_calendar_month_before(date: datetime.date) -> None:
    before = (date.replace(day=1) - datetime.timedelta(days=1)).replace(day=1)
    start, newest = number_of(before), number_of(date)
    assert window_start(np.array([newest]))[0] == start
    assert in_window(start, newest)
    assert not in_window(start - 1, newest)


@given(st.integers(TS_MS_MIN, TS_MS_MAX))
@example(TS_MS_MIN)
@example(TS_MS_MAX)
@example(-1)
@example(0)
def test_a_time_stamp_belongs_to_the_utc_day_it_falls_in(ts_ms: int) -> None:
    day = int(day_of(np.array([ts_ms]))[0])
    assert day * MS_PER_DAY <= ts_ms < (day + 1) * MS_PER_DAY
    assert datetime.date.min <= datetime.date.fromordinal(EPOCH + day) <= datetime.date.max
