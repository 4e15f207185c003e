"""What a fetch says was read; and when that is of another leader: does the topic still hold what was applied?"""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition
from faust.types.tuples import TP

from stream.driver import transport
from stream.driver.fetched import EndsSeen, Fetched
from stream.driver.transport import Consumer, ConsumerThread
from stream.kafka.batches.pieces import ReadRecord
from stream.kafka.fetcher import Taken
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


class Fetcher:
    """As aiokafka's, with one partition; while somebody waits for records, something happens."""

    _closed = False

    def __init__(self) -> None:
        self.tp = TopicPartition("events", 0)
        self._subscriptions = SubscriptionState()
        self._subscriptions.assign_from_user({self.tp})
        self.meanwhile: Callable[[], Taken] = Taken

    @property
    def state(self) -> Any:
        return self._subscriptions.subscription.assignment.state_value(self.tp)

    def reads(self, first: int, end: int, epoch: int) -> Callable[[], Taken]:
        """Records up to there, of a leader."""

        move = self.moves(end, epoch)

        def read() -> Taken:
            move()
            return Taken(ReadRecord(offset, 0, b"u", b"{}") for offset in range(first, end))

        return read

    def moves(self, end: int, epoch: int) -> Callable[[], Taken]:
        """Nothing but the position."""

        def move() -> Taken:
            self.state.consumed_to(end)
            self.state.epochs = (epoch, epoch)
            return Taken()

        return move

    async def fetched_records(self, *_: Any, **__: Any) -> dict[TopicPartition, Taken]:
        await asyncio.sleep(0)
        taken = self.meanwhile()
        return {self.tp: taken} if taken else {}


def fetch(fetcher: Fetcher, meanwhile: Callable[[], Any]) -> Fetched | None:
    fetcher.meanwhile = lambda: meanwhile() or Taken()
    thread = ConsumerThread.__new__(ConsumerThread)
    thread.consumer, thread._ends = SimpleNamespace(flow_active=True), EndsSeen()
    clock = SimpleNamespace(broker_wrote=lambda _: None)
    shared = SimpleNamespace(clock=clock)
    thread.app = SimpleNamespace(ownership=SimpleNamespace(shared=shared), consumer_generation_id=1)
    asked = SimpleNamespace(_fetcher=fetcher, _closed=False)
    fetched: Fetched | None = asyncio.run(thread._fetch_records(asked, None)).get(fetcher.tp)
    return fetched


@pytest.fixture
def fetcher() -> Fetcher:
    async def made() -> Fetcher:
        return Fetcher()

    return asyncio.run(made())


def test_what_was_chosen_while_records_were_waited_for_was_not_read(fetcher: Fetcher) -> None:
    """Taken for read, it ended in the epoch of the records before, of which the topic seemed to have lost some."""
    fetcher.state.seek(100)
    first = fetch(fetcher, fetcher.reads(100, 110, epoch=2))
    assert first is not None
    assert (len(first.records), first.start, first.next, first.arrival.leader_epoch) == (10, 100, 110, 2)
    assert fetch(fetcher, lambda: fetcher.state.seek(500)) is None
    then = fetch(fetcher, fetcher.reads(500, 501, epoch=6))
    assert then is not None
    assert (len(then.records), then.start, then.next, then.arrival.leader_epoch) == (1, 500, 501, 6)


def test_what_is_read_behind_a_place_that_was_chosen_meanwhile_starts_there(fetcher: Fetcher) -> None:
    fetcher.state.seek(100)

    def sought_and_read() -> Taken:
        fetcher.state.seek(300)
        return fetcher.reads(310, 320, epoch=4)()

    found = fetch(fetcher, sought_and_read)
    assert found is not None
    assert (found.start, found.next) == (300, 320)


def test_a_read_without_records_moves_on(fetcher: Fetcher) -> None:
    """The end of a transaction, or what compaction took."""
    fetcher.state.seek(100)
    found = fetch(fetcher, fetcher.moves(103, epoch=2))
    assert found is not None
    assert (len(found.records), found.start, found.next) == (0, 100, 103)
    assert fetch(fetcher, Taken) is None
