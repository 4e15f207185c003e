"""Topics in memory, and producers that write to them in transactions, which a test may make fail."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from stream.kafka.transactions import SourceOffset
from stream.records.outgoing import Outgoing

Headers = Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class StoredRecord:
    """A committed record, with the attributes that every reader of ours asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Failure(Enum):
    """What a test has happen to the next transaction."""

    BEFORE_COMMIT = "the broker aborts it: nothing of it is ever seen"
    AFTER_COMMIT = "it is committed, and the worker dies before it hears of it"


class TransactionFailed(Exception):
    """A transaction failed as the test wanted it: a worker would end now, so restart the harness."""


@dataclass
class Topics:
    """Every committed record, in order. **Invariant**: a transaction's records appear together or not at all."""

    now_ms: Callable[[], int]
    failure: Failure | None = None
    _records: dict[tuple[str, int], list[StoredRecord]] = field(default_factory=lambda: defaultdict(list))

    def append(self, topic: str, partition: int, record: Outgoing, timestamp_ms: int) -> int:
        """Write one record; its offset."""
        log = self._records[topic, partition]
        stored = StoredRecord(
            topic, partition, len(log), timestamp_ms, record.key, record.value, tuple(record.headers or ())
        )
        log.append(stored)
        return stored.offset

    def read(self, topic: str, partition: int, offset: int = 0) -> list[StoredRecord]:
        """The records of a partition from this offset on."""
        return self._records[topic, partition][max(0, offset) :]

    def end(self, topic: str, partition: int) -> int:
        """The offset of the next record."""
        return len(self._records[topic, partition])

    def take_failure(self) -> Failure | None:
        """What is to happen to this transaction; the next one goes well again."""
        failure, self.failure = self.failure, None
        return failure


class MemoryProducer:
    """Writes to `Topics` as a `TransactionalProducer` does to Kafka, of one partition."""

    dead: Final = False
    in_flight: Final = False
    idle_s: Final = 0.0

    def __init__(self, topics: Topics, transactional_id: str, partition: int) -> None:
        self.partition = partition
        self.id = transactional_id
        self.n_done = 0
        self._topics = topics

    async def start(self) -> None:
        """Nobody else writes here."""

    async def stop(self) -> None:
        """There is no connection to give up."""

    def begin_topic(self, topic: str, after: int = -1) -> None:
        """Nothing is compared."""

    async def end_hanging(self, topics: Sequence[str], *, commit: bool) -> None:
        """No transaction is ever left open."""

    async def transact(
        self,
        cause: str,
        outputs: Mapping[str, Sequence[Outgoing]],
        timestamp_ms: int,
        source: SourceOffset | None = None,  # noqa: ARG002 - where to go on stands in the partition record
    ) -> dict[str, int]:
        """Write all the records, or none; the offset of each topic's last. **Raises** `TransactionFailed`."""
        failure = self._topics.take_failure()
        if failure is Failure.BEFORE_COMMIT:
            raise TransactionFailed(f"{failure.value}: transaction={cause} partition={self.partition}")
        last = {}
        for topic, records in outputs.items():
            for record in records:
                last[topic] = self._topics.append(topic, self.partition, record, timestamp_ms)
        if failure is Failure.AFTER_COMMIT:
            raise TransactionFailed(f"{failure.value}: transaction={cause} partition={self.partition}")
        self.n_done += 1
        return last
