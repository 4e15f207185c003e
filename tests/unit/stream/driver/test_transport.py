"""When what follows in a partition is of another leader: does the topic still hold what was applied?"""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import TP

from stream.driver import transport
from stream.driver.fetched import Fetched
from stream.driver.transport import Consumer
from stream.records.arrival import Arrival

CHANGELOG = TP("changelog", 0)
# The offset behind the last record of each leader.
ENDS = {0: 120, 1: 600}


class Ended(Exception):
    """The worker would."""


class Thread:
    """Asks the leader."""

    async def call_thread(self, question: Callable[..., Awaitable[int]], *arguments: Any) -> int:
        return await question(*arguments)

    async def end_of_epoch(self, _: TP, epoch: int) -> int:
        return ENDS[epoch]


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    """One that nothing is assigned to, without Faust's app around it."""

    def die(error: object) -> None:
        raise Ended(str(error))

    monkeypatch.setattr(transport, "die", die)
    made = Consumer.__new__(Consumer)
    made._thread, made._expected, made._epochs = Thread(), {}, {}
    names = SimpleNamespace(events="events")
    made.app = SimpleNamespace(ownership=SimpleNamespace(shared=SimpleNamespace(names=names)), epoch=0,
                               accept_data_loss=False, rebalancing=False)  # fmt: skip
    return made


def read(consumer: Consumer, start: int, end: int, epoch: int) -> None:
    batch = Fetched([], start, end, 1, Arrival(leader_epoch=epoch), epoch)
    asyncio.run(consumer._refuse_replaced(CHANGELOG, batch))
    assert list(consumer._messages(CHANGELOG, batch))


def test_whoever_owned_a_partition_while_its_leader_changed_reads_on_as_a_standby(consumer: Consumer) -> None:
    consumer._expected[CHANGELOG] = 0
    read(consumer, 0, 101, epoch=0)
    del consumer._expected[CHANGELOG]
    # It owned the partition, wrote up to 500, and stands by.
    consumer._expected[CHANGELOG] = 501
    read(consumer, 501, 560, epoch=1)


def test_a_changelog_that_lost_what_was_read_last_ends_the_worker(consumer: Consumer) -> None:
    consumer._expected[CHANGELOG] = 0
    read(consumer, 0, 130, epoch=0)
    with pytest.raises(Ended, match="has lost what was applied"):
        read(consumer, 130, 200, epoch=1)
