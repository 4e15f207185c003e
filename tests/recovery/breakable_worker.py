"""`lurm worker` in which SIGRTMIN raises an error in a task: a sender, the coordinator or a fetcher.

Nothing is replaced: the future that the task waits for gets an exception, as a bug of the library would raise it.
"""

import asyncio
import gc
import inspect
import signal
import sys
from typing import Any

from stream.cli import run


def find(task: str) -> asyncio.Task[None]:
    """The task to break."""
    from aiokafka.consumer.fetcher import Fetcher  # noqa: PLC0415
    from aiokafka.consumer.group_coordinator import GroupCoordinator  # noqa: PLC0415
    from aiokafka.producer.sender import Sender  # noqa: PLC0415

    if task == "faust-fetcher":
        return next(each for each in asyncio.all_tasks() if "_fetcher" in called(each.get_coro()))
    gc.unfreeze()
    found = gc.get_objects()
    if task == "coordinator":
        return next(each._coordination_task for each in found if type(each) is GroupCoordinator)
    if task.endswith("-fetcher"):
        fetchers = [each for each in found if type(each) is Fetcher and not each._closed]
        # One reads events and changelog, one the control topic.
        return next(each._fetch_task for each in fetchers if reads_control(each) == (task == "control-fetcher"))
    senders = [each for each in found if type(each) is Sender and each._txn_manager.transactional_id]
    # That of the rows, not that of the embeddings.
    return min(senders, key=lambda each: str(each._txn_manager.transactional_id)).sender_task


def reads_control(fetcher: Any) -> bool:
    """Whether it is that of erasures."""
    return any(partition.topic.endswith("-control") for partition in fetcher._subscriptions.assigned_partitions())


def called(coroutine: Any) -> list[str]:
    """The names of the coroutines that wait for each other."""
    return [coroutine.__name__, *called(coroutine.cr_await)] if inspect.iscoroutine(coroutine) else []


def fail(task: asyncio.Task[None]) -> None:
    """Raise in a task where it waits; one that is about to run waits a moment later."""
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        task.get_loop().call_later(0.001, fail, task)
    else:
        future.set_exception(RuntimeError("broken by a test"))


def break_task(*_: object) -> None:
    """Raise in the loop's own thread."""
    task = find(sys.argv[1])
    task.get_loop().call_soon_threadsafe(fail, task)


signal.signal(signal.SIGRTMIN, break_task)
sys.exit(run(["worker"]))
