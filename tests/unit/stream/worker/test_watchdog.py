import threading

from stream.worker.watchdog import Progress, Watchdog


def watchdog(progress: dict[str, tuple[object, bool]], dead: list[str] | None = None) -> Watchdog:
    return Watchdog(
        lambda: [Progress(name, value, idle) for name, (value, idle) in progress.items()],
        lambda: dead or [],
        stuck_s_max=10.0,
        end=lambda reason: None,
    )


def test_what_moves_in_time_is_alive() -> None:
    seen: dict[str, tuple[object, bool]] = {}
    watching = watchdog(seen)
    for now_s in range(0, 100, 10):
        seen["loop"] = (now_s, False)
        assert watching.look(now_s) is None


def test_what_does_not_move_for_longer_than_the_limit_ends_the_worker() -> None:
    watching = watchdog({"fine": (0, True), "the loop": (7, False)})
    assert watching.look(0.0) is None
    assert watching.look(10.0) is None
    assert watching.look(10.5) == "the loop has not moved for 10 s"


def test_what_was_away_starts_anew_when_it_comes_back() -> None:
    seen: dict[str, tuple[object, bool]] = {"a transaction of partition 7": (0, True)}
    watching = watchdog(seen)
    assert watching.look(0.0) is None
    given_up = seen.popitem()
    assert watching.look(1.0) is None
    seen[given_up[0]] = (0, False)
    assert watching.look(300.0) is None
    assert watching.look(311.0) == "a transaction of partition 7 has not moved for 11 s"


def test_what_is_idle_may_stand_still_and_starts_anew_afterwards() -> None:
    seen: dict[str, tuple[object, bool]] = {"source": (7, True)}
    watching = watchdog(seen)
    assert watching.look(0.0) is None
    assert watching.look(1000.0) is None
    seen["source"] = (7, False)
    assert watching.look(1005.0) is None
    assert watching.look(1010.0) is None
    assert watching.look(1011.0) == "source has not moved for 11 s"


def test_what_has_a_limit_of_its_own_keeps_to_it() -> None:
    watching = Watchdog(lambda: [Progress("the end", None, False, 3.0)], list, 10.0, lambda reason: None)
    assert watching.look(0.0) is None
    assert watching.look(3.0) is None
    assert watching.look(4.0) == "the end has not moved for 4 s"


def test_something_dead_ends_the_worker_at_once() -> None:
    assert watchdog({"loop": (0, True)}, ["the producer of partition 3 is dead"]).look(0.0) == (
        "the producer of partition 3 is dead"
    )


def test_the_thread_reports_once_and_ends() -> None:
    reasons: list[str] = []
    reported = threading.Event()

    def end(reason: str) -> None:
        reasons.append(reason)
        reported.set()

    watching = Watchdog(list, lambda: ["dead"], 10.0, end)
    watching.start()
    assert reported.wait(10)
    watching.join(10)
    assert reasons == ["dead"]
    assert not watching.is_alive()
