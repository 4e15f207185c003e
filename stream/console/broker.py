"""Follows the broker in a thread of its own: the group's lag, and the records of the two topics as they come."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from state.errors import StateError
from stream.console.held import Held
from stream.errors import LurmError
from stream.kafka.connection import broker_errors, consumer_arguments, wait_for_broker
from stream.kafka.lag import LagReader, PartitionLag
from stream.settings import Settings

logger = logging.getLogger("lurm")

_POLL_MS = 100
# So long may reading the topics keep the lag from being read.
_READ_S = 2.0
_MADE_ANEW = "the topics were made anew, or lost what was read: restart the console"


class BrokerView(NamedTuple):
    """What was seen last, when, and what is wrong now; ``behind`` records of the topics are not read yet."""

    partitions: list[PartitionLag]
    read_at_s: float | None
    error: str | None
    behind: int


class Follower:
    """Reads the changelog and the embeddings into `Held`; goes on where it was after the broker was away."""

    def __init__(self, settings: Settings, held: Held) -> None:
        self._settings = settings
        self._held = held
        self._positions: dict[TopicPartition, int] = {}
        self._consumer: KafkaConsumer | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        wait_for_broker(self._settings)
        # An offset that is gone is an error, not a reason to begin again beside what is held already.
        arguments = consumer_arguments(self._settings.kafka) | {"auto_offset_reset": "none"}
        with broker_errors(self._settings.kafka):
            self._consumer = self._open.enter_context(closing(KafkaConsumer(**arguments)))
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer = None
        self._open.close()

    def follow(self, seconds: float = _READ_S) -> int:
        """Read for at most so long; how many offsets are left."""
        consumer, deadline = self._consumer, time.monotonic() + seconds
        if consumer is None:
            return 0
        with broker_errors(self._settings.kafka), _made_anew():
            self._assign(consumer)
            ends = consumer.end_offsets(list(self._positions)) if self._positions else {}
            while self._left(ends) and time.monotonic() < deadline:
                for partition, records in consumer.poll(timeout_ms=_POLL_MS).items():
                    is_row = partition.topic == self._settings.changelog_topic
                    (self._held.add_rows if is_row else self._held.add_embeddings)(records)
                self._positions = {each: consumer.position(each) for each in self._positions}
        self._held.complete = self._held.complete or not self._left(ends)
        return self._left(ends)

    def _assign(self, consumer: KafkaConsumer) -> None:
        """Read what there is from where it was left; topics may be made while we look."""
        topics = (self._settings.changelog_topic, self._settings.topics.embeddings)
        found = [
            TopicPartition(topic, n) for topic in topics for n in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        if self._positions.keys() - set(found):
            raise LurmError(_MADE_ANEW)
        if not found or consumer.assignment() == set(found):
            return
        starts = consumer.beginning_offsets(found)
        self._positions = starts | self._positions
        consumer.assign(list(self._positions))
        for each, offset in self._positions.items():
            consumer.seek(each, offset)

    def _left(self, ends: dict[TopicPartition, int]) -> int:
        return sum(max(0, end - self._positions[each]) for each, end in ends.items())


@contextmanager
def _made_anew() -> Iterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise LurmError(_MADE_ANEW) from error


class BrokerWatch:
    """Looks every ``interval_s`` until closed; an error is kept to be shown, and asking goes on."""

    def __init__(self, settings: Settings, held: Held, interval_s: float) -> None:
        self.view = BrokerView([], None, None, 0)
        self._settings = settings
        self._follower = Follower(settings, held)
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lurm-console-broker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; a request in flight is not waited for."""
        self._stopping.set()
        self._thread.join(self._interval_s + _READ_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (LurmError, StateError) as error:
                logger.error("cannot read the broker: %s", error)  # noqa: TRY400 - an operator's error is one line
                self.view = self.view._replace(error=str(error))
                self._stopping.wait(self._interval_s)

    def _look(self) -> None:
        with LagReader(self._settings) as reader, self._follower as follower:
            while not self._stopping.is_set():
                partitions = reader.read(time.time())
                self.view = BrokerView(partitions, time.time(), None, follower.follow())
                if not self.view.behind:
                    self._stopping.wait(self._interval_s)
