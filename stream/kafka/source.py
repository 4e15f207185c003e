"""Which source a partition reads, and where it may go on: the topic's identity, its epoch, its first and last offset.

Invariant: what was counted and what is read next belong together, or the worker stops; nothing is skipped silently.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec

from state.record import PartitionRecord
from state.rows import epoch_after
from stream.errors import BrokerUnavailable, ConfigInvalid, SourceLost
from stream.fatal import die
from stream.kafka.topics import offset_ranges, topic_id, topic_ids
from stream.records.arrival import UNKNOWN_EPOCH
from stream.records.erasure import source_of
from stream.settings import Settings

logger = logging.getLogger("lurm")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """The source topic as it is now; a broker that gives topics no id leaves it empty, and nothing is compared.

    ``erasures_id`` is the id of the topic that remembers who was erased from it.
    """

    topic: str
    topic_id: str
    epoch: int
    erasures_id: str = ""

    @property
    def name(self) -> str:
        """What erasures call it."""
        return source_of(self.topic_id, self.topic, self.epoch)

    def begins(self, record: PartitionRecord | None) -> bool:
        """Whether a partition with this record has read nothing of this source."""
        return record is None or self.epoch > record.epoch

    def is_same(self, record: PartitionRecord) -> bool:
        """Whether it is surely the topic that was counted; no topic is, where brokers give them no id."""
        return self.topic_id != "" and self.topic_id == record.source_id

    def continued(self, record: PartitionRecord, partition: int, kept: int | None = None) -> PartitionRecord:
        """The record to go on with on this source. A higher epoch begins another topic, with its first offset.

        It may also be the same one, when that has lost its end: with the offset up to which it has ``kept`` what was
        applied, or where that was everything, with the next one.

        **Raises** `SourceLost` when the topic is another one, `ConfigInvalid` when the epoch does not fit.
        """
        facts = f"topic={self.topic} partition={partition} state_epoch={record.epoch} topics.epoch={self.epoch}"
        if self.epoch < record.epoch:
            raise ConfigInvalid(f"the state has begun a later epoch: {facts}; set LURM_TOPICS__EPOCH={record.epoch}")
        if self.epoch == record.epoch:
            self.refuse_successor(record.source_id, record.next_offset)
            return msgspec.structs.replace(record, source_id=self.topic_id or record.source_id)
        needed = epoch_after(record.epoch, record.next_offset)
        if self.epoch < needed:
            raise ConfigInvalid(
                f"the epoch is too low for seq to grow, since offsets have passed 2^40: {facts} "
                f"next_offset={record.next_offset}; set LURM_TOPICS__EPOCH={needed}"
            )
        next_offset = 0
        if self.is_same(record):
            if kept is None:
                raise ConfigInvalid(
                    "the epoch was raised but the topic is the same, so its events would count twice: "
                    f"{facts}; set LURM_TOPICS__EPOCH={record.epoch}"
                )
            next_offset = min(record.next_offset, kept)
        return msgspec.structs.replace(
            record, epoch=self.epoch, source_id=self.topic_id, next_offset=next_offset, leader_epoch=UNKNOWN_EPOCH
        )

    def refuse_successor(self, counted_id: str, next_offset: int = 0) -> None:
        """**Raises** `SourceLost` when this topic is not the one with this id, of which so much was counted."""
        if "" not in (self.topic_id, counted_id) and self.topic_id != counted_id:
            raise SourceLost(
                f"the source topic is not the one that was counted; was it recreated? topic={self.topic} "
                f"id={self.topic_id} counted={counted_id}; {_go_on(self.epoch, next_offset)}"
            )


def read_source(settings: Settings) -> Source:
    """Ask the broker. **Raises** `SourceLost` when the topic is gone, `BrokerUnavailable`."""
    topics = settings.topics
    found = topic_ids(settings, (topics.events, settings.erasures_topic))
    if topics.events not in found:
        raise SourceLost(f"the source topic is gone: topic={topics.events}; {_go_on(topics.epoch)}")
    return Source(topics.events, found[topics.events], topics.epoch, found.get(settings.erasures_topic, ""))


def read_changelog_id(settings: Settings) -> str:
    """Ask the broker; "" where it gives topics no id. **Raises** `SourceLost` when there is none."""
    found = topic_id(settings, settings.changelog_topic)
    if found is None:
        raise SourceLost(f"the changelog is gone: topic={settings.changelog_topic}; was it deleted?")
    return found


def first_offsets(settings: Settings) -> dict[int, int]:
    """The first offset of each source partition. **Raises** `BrokerUnavailable`."""
    return {number: first for number, (first, _) in offset_ranges(settings, settings.topics.events).items()}


async def ask(question: Callable[[Settings], T], settings: Settings) -> T:
    """Ask the broker beside a running event loop; one that does not answer ends the worker (I8)."""
    try:
        return await asyncio.to_thread(question, settings)
    except BrokerUnavailable as error:
        die(str(error))


class Position(NamedTuple):
    """Where a partition wants to go on, and what there is: all are offsets, ``committed`` that of the group.

    One that is not ``begun`` never had a record, and begins with whatever there is.
    """

    topic: str
    partition: int
    wanted: int
    first: int
    end: int
    committed: int = 0
    begun: bool = True


def n_lost(at: Position, epoch: int, *, accept_loss: bool) -> int:
    """How many unread events retention deleted before this position's first offset.

    **Raises** `SourceLost` when there are any and that is not accepted, and when topic and state contradict each other.
    """
    facts = f"topic={at.topic} partition={at.partition} applied={at.wanted}"
    if at.wanted > at.end:
        raise SourceLost(
            f"the source topic is shorter than what was applied; was it recreated, or has it lost its end? {facts} "
            f"end={at.end}; "
            f"{_go_on(epoch, at.wanted)}"
        )
    if at.committed > (at.wanted if at.begun else 0):
        raise SourceLost(
            f"the changelog is behind the group's offset; was it deleted? {facts} committed={at.committed}; "
            "reset the group's offsets to build the state again"
        )
    if not at.begun or at.wanted >= at.first:
        return 0
    if not accept_loss:
        raise SourceLost(
            f"retention deleted unread events: {facts} first={at.first}; set LURM_KAFKA__DATA_LOSS=accept to go on"
        )
    logger.error("retention deleted unread events, going on: %s first=%s", facts, at.first)
    return at.first - at.wanted


def n_replaced(at: Position, epoch: int, leader_epoch: int, end: int | None, *, accept_loss: bool) -> int:
    """How many applied offsets hold other, unread events now: the topic has that leader's records before ``end`` only.

    **Raises** `SourceLost` when there are any and that is not accepted.
    """
    if end is None or end >= at.wanted:
        return 0
    facts = (
        f"topic={at.topic} partition={at.partition} applied={at.wanted} kept={end} leader_epoch={leader_epoch}; was a "
        "leader elected that lacked them (unclean.leader.election.enable), or a disk lost?"
    )
    if not accept_loss:
        raise SourceLost(
            f"the source topic has lost applied events, and others stand at their offsets: {facts} To count those too, "
            f"set LURM_TOPICS__EPOCH={epoch_after(epoch, at.wanted)}; LURM_KAFKA__DATA_LOSS=accept goes on behind them"
        )
    logger.error("the source topic has lost applied events, going on behind others at their offsets: %s", facts)
    return at.wanted - end


def _go_on(epoch: int, next_offset: int = 0) -> str:
    return f"to count what it holds now on top, set LURM_TOPICS__EPOCH={epoch_after(epoch, next_offset)}"
