from stream.kafka.clock import Clock

DAY_MS = 86_400_000


def test_a_clock_that_is_behind_what_a_broker_wrote_goes_on_from_there_until_it_is_set() -> None:
    system, monotonic = [1_000 * DAY_MS], [0]
    clock = Clock(lambda: system[0], lambda: monotonic[0])
    assert (clock.now_ms(), clock.behind_ms) == (system[0], 0)
    clock.broker_wrote(0)
    clock.broker_wrote(system[0] + 59_000)
    assert clock.now_ms() == system[0], "clocks never agree to the second"
    clock.broker_wrote(1_040 * DAY_MS)
    clock.broker_wrote(1_039 * DAY_MS)
    assert (clock.now_ms(), clock.behind_ms) == (1_040 * DAY_MS, 40 * DAY_MS)
    system[0] += 5
    monotonic[0] += 5
    assert clock.now_ms() == 1_040 * DAY_MS + 5
    system[0] = 1_040 * DAY_MS + 10
    monotonic[0] += 10
    assert (clock.now_ms(), clock.behind_ms) == (system[0], 0)
