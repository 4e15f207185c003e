from hypothesis import given
from hypothesis import strategies as st

from stream.driver.fetched import EndsSeen


def test_what_is_read_beyond_an_end_came_after_it_was_last_seen() -> None:
    ends = EndsSeen()
    for end, at_ms in ((100, 1), (100, 2), (200, 3)):
        ends.note("p", end, at_ms)
    assert [ends.after_ms("p", offset) for offset in (99, 100, 199, 200, 500)] == [None, 2, 2, 3, 3]
    assert ends.after_ms("another", 500) is None


def test_a_topic_that_begins_again_is_another() -> None:
    ends = EndsSeen()
    ends.note("p", 200, 1)
    ends.note("p", 5, 2)
    assert [ends.after_ms("p", offset) for offset in (4, 5, 300)] == [None, 2, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=2_000), st.integers(0, 9_000))
def test_what_is_told_was_true_and_what_is_kept_is_bounded(steps: list[tuple[int, int]], offset: int) -> None:
    ends, end, at_ms, told = EndsSeen(), 0, 0, [(0, 0)]
    for passed_ms, n in steps:
        end, at_ms = end + n, at_ms + passed_ms
        ends.note("p", end, at_ms)
        told.append((end, at_ms))
    assert len(ends._seen.get("p", {})) <= 256
    after_ms = ends.after_ms("p", offset)
    assert after_ms is None or any(at_ms == after_ms and end <= offset for end, at_ms in told)
    assert steps == [] or offset < end or after_ms == at_ms
