"""Runs of a worker that end, halt or hesitate at a step, and what they must leave on their disk."""

import signal
from collections import Counter
from contextlib import closing

from state.options import StoreOptions, StoreResources
from state.rows import RECORD_KEY
from state.store import BagStore
from stream.records.dead_letters import PREFIX
from stream.settings import Settings
from tests.brokers import producer, read_records
from tests.workers import Changelog, Traffic, WorkerProcess, newest_published, wait_until


def send_with_poison(traffic: Traffic, n: int) -> int:
    """Send n random events and, all through them, some that are none; how many those are."""
    for _ in range(10):
        traffic.send(n // 10)
        with producer(traffic.settings) as client:
            for number in range(4):
                client.send(traffic.settings.topics.events, b"{", b"user-%d" % number)
            client.flush()
    return 40


def check_letters(settings: Settings, n: int) -> None:
    """There are n dead letters, each of another event."""
    letters = read_records(settings, settings.topics.dead_letters, range(settings.topics.partitions))
    wanted = (f"{PREFIX}topic", f"{PREFIX}partition", f"{PREFIX}offset")
    assert len(letters) == n
    # Offsets begin anew in a topic that was recreated, so they tell letters apart within an epoch only.
    places = Counter(tuple(dict(letter.headers)[name] for name in wanted) for letter in letters)
    assert max(places.values(), default=0) <= 1 + settings.topics.epoch


def killed_at(worker: WorkerProcess, step: str, passage: int = 1) -> None:
    """Run the worker until it kills itself at this step; whatever else ends it, or nothing, fails the test."""
    worker.start(f"{step}:{passage}")
    assert worker.wait() == -signal.SIGKILL, f"not killed at {step}:\n{worker.output()}"


def halted_at(worker: WorkerProcess, step: str, passage: int = 1) -> None:
    """Run the worker until it stops itself at this step; SIGCONT lets it go on."""
    worker.start(f"{step}:{passage}=SIGSTOP")
    wait_until(lambda: worker.returncode is not None or worker.is_stopped, explain=worker.output)
    assert worker.returncode is None, worker.output()


def check_disk(worker: WorkerProcess) -> None:
    """End the worker, the only one of its group: its disk holds exactly the changelog's rows, nobody is unpublished.

    Some may be dirty all the same: a recovery marks whoever may have been unpublished.
    """
    assert worker.terminate() == 0, worker.output()
    changelog, settings = Changelog(worker.settings), worker.settings
    assert settings.state.dir is not None
    published = newest_published(settings)
    rows: dict[bytes, bytes] = {}
    for number in range(settings.topics.partitions):
        path = settings.state.dir / settings.app.id / f"partition-{number}"
        with closing(BagStore(path, StoreResources(StoreOptions()))) as store:
            rows |= dict(store._db.items())
            assert rows.pop(RECORD_KEY, None) is not None
            assert store.record == changelog.partitions[number]
            marks = store.marks.take(len(store.marks))
            assert all(mark.newest_seq <= published[user].seq for user, mark in marks.items())
    assert rows == changelog.rows
