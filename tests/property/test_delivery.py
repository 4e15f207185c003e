"""Whatever a reader does, an offset is committed only when all before it was handled, and everything comes."""

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from kafka import TopicPartition

from stream.kafka.delivery import Delivery

N_RECORDS = 12
PARTITIONS = (0, 1)


class Record(NamedTuple):
    topic: str
    partition: int
    offset: int

    @property
    def says_something(self) -> bool:
        return self.offset % 3 != 2


class Reading:
    """Remembers what it has seen, as whoever drops repeated records does."""

    def __init__(self) -> None:
        self.seen: set[Record] = set()

    def understand(self, record: Record) -> Record | None:
        if not record.says_something:
            return None
        assert record not in self.seen, "nobody said that this one comes again"
        self.seen.add(record)
        return record

    def unsee(self, change: Record) -> None:
        self.seen.remove(change)


class Reader(RuleBasedStateMachine):
    """A reader of two partitions beside the plain truth: what was fetched, given last, handled and committed."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = Reading()
        self.delivery = Delivery(self.reading)
        self.fetched = dict.fromkeys(PARTITIONS, 0)
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.given: list[Record] = []
        self.handled: set[Record] = set()

    @rule(partition=st.sampled_from(PARTITIONS), n=st.integers(1, 6))
    def fetch(self, partition: int, n: int) -> None:
        start = self.fetched[partition]
        self.fetched[partition] = min(N_RECORDS, start + n)
        self.delivery.add(Record("t", partition, offset) for offset in range(start, self.fetched[partition]))

    @rule(n=st.integers(1, 5))
    def take(self, n: int) -> None:
        self.given += self.delivery.take(n)

    @rule()
    def handle(self) -> None:
        self.delivery.handle()
        self.handled |= set(self.given)
        self.given = []

    @rule()
    def give_back(self) -> None:
        self.delivery.give_back()
        expected, self.given = self.given, []
        if expected:
            self.take(len(expected))
            assert self.given == expected, "what was not handled comes first"

    @rule()
    def commit(self) -> None:
        offsets = self.delivery.handled
        self.committed |= {place.partition: offset for place, offset in offsets.items()}
        self.delivery.committed(offsets)
        assert not self.delivery.handled

    @rule(partition=st.sampled_from(PARTITIONS))
    def rebalance(self, partition: int) -> None:
        self.delivery.drop({TopicPartition("t", partition)})
        self.fetched[partition] = self.committed[partition]
        self.given = [each for each in self.given if each.partition != partition]
        # What was handled and not committed the next owner does not know.
        again = {
            each for each in self.handled if each.partition == partition and each.offset >= self.fetched[partition]
        }
        self.reading.seen -= again

    @invariant()
    def what_may_be_committed_was_handled(self) -> None:
        for place, offset in self.delivery.handled.items():
            below = {Record("t", place.partition, each) for each in range(offset)}
            assert {each for each in below if each.says_something} <= self.handled

    @invariant()
    def what_is_given_is_in_order(self) -> None:
        for partition in PARTITIONS:
            offsets = [each.offset for each in self.given if each.partition == partition]
            assert offsets == sorted(offsets)

    def teardown(self) -> None:
        """From now on the reader behaves."""
        self.delivery.give_back()
        for partition in PARTITIONS:
            self.fetch(partition, N_RECORDS)
        while taken := self.delivery.take(4):
            self.delivery.handle()
            self.handled |= set(taken)
        everything = {Record("t", partition, offset) for partition in PARTITIONS for offset in range(N_RECORDS)}
        assert self.handled == {each for each in everything if each.says_something}


test_what_is_committed_was_handled_and_everything_comes = Reader.TestCase
test_what_is_committed_was_handled_and_everything_comes.settings = settings(max_examples=100, stateful_step_count=40)
