"""Runs of a worker that end, halt or hesitate at a step, and what they must leave on their disk."""

import signal
from contextlib import closing

from state.options import StoreOptions, StoreResources
from state.rows import RECORD_KEY
from state.store import BagStore
from tests.workers import Changelog, WorkerProcess, newest_published, wait_until


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
