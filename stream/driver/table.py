"""Faust's view of the state: assignment, changelog recovery and standby copies stay Faust's, the rows are ours.

Recovery and standby apply the changelog in its order, which has one writer at a time (I4). Faust would retry a failed
apply for ever, so every failure here ends the worker.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, NoReturn

from faust.stores.base import SerializedStore
from faust.tables import manager, recovery
from faust.types.tuples import TP

from state.store import NONE_APPLIED
from stream.errors import ConfigInvalid, SourceLost
from stream.failpoints import passing
from stream.fatal import die
from stream.partition.ownership import Ownership

# A transaction waits for an absent broker without end, and a supervisor kills what does not stop, usually after 30 s.
_STOP_S = 15.0
# How often a broker must say that the changelog is shorter than what was applied, and how long apart.
_ENDS_ASKED = 5
_ENDS_PAUSE_S = 0.5

logger = logging.getLogger("lurm")


class BagTable(SerializedStore):
    """The store of the changelog table; row access goes through `Ownership`, never through Faust's mapping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        table, changelog = self.table, self._ownership.shared.names.changelog
        if table.changelog_topic_name != changelog:
            die(ConfigInvalid(f"the store has one table, of {changelog}: table={table.name}; give it another store"))

    @property
    def _ownership(self) -> Ownership:
        ownership: Ownership = self.app.ownership
        return ownership

    def persisted_offset(self, tp: TP) -> int | None:
        """The last changelog offset applied, if any; none for a store that a signal to stop made a recovery give up."""
        try:
            applied = self._ownership.store(tp.partition).changelog_offset
        except Exception as error:  # noqa: BLE001 - the process dies here
            if self.app.should_stop:
                return None
            die(error)
        return None if applied == NONE_APPLIED else applied

    def set_persisted_offset(self, tp: TP, offset: int) -> NoReturn:
        """Refused: the offset changes with the rows, in one WriteBatch."""
        die(f"the changelog offset is only written beside the rows it covers: {tp}={offset}")

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Apply batch messages in order."""
        del to_key, to_value
        try:
            for number, events in groupby(
                sorted((event.message for event in batch), key=attrgetter("partition")), attrgetter("partition")
            ):
                self._replay(number, list(events))
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    def _replay(self, number: int, messages: list[Any]) -> None:
        """Apply what the store does not hold yet: no old row goes over a new one, and no row is missing."""
        ownership = self._ownership
        store = ownership.store(number)
        applied = store.changelog_offset
        _refuse_gap(messages, applied)
        changelog_offset = messages[-1].offset
        if changelog_offset <= applied:
            return
        records = [record for each in messages for record in each.records if record.offset > applied]
        store.replay(((record.key, record.value, record.timestamp) for record in records), changelog_offset)
        if store.record is not None:
            expected = ownership.shared.empty_record
            store.record.refuse_other(expected.interest_space_id, expected.scales)
        passing("recovery.replayed")
        ownership.n_replayed += len(records)
        ownership.shared.metrics.replayed.inc(len(records))

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Close what was lost, open what came, fence its previous owner; before recovery reads any offset."""
        del revoked, newly_assigned, generation_id
        topics = self.table.changelog_topic.topics
        source = self._ownership.shared.names.events
        held = {tp.partition for tp in assigned if tp.topic in topics}
        active = {tp.partition for tp in assigned if tp.topic == source}
        try:
            self._refuse_added(active)
            await self._ownership.assign(active, held - active)
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    def _refuse_added(self, active: set[int]) -> None:
        """The key of a user hashes to another partition now, whose rows are not that user's."""
        n = self.app.conf.topic_partitions
        if max(active, default=0) >= n:
            raise SourceLost(
                f"partitions were added to the events topic: topic={self._ownership.shared.names.events} wanted={n} "
                f"found>{max(active)}; users are in other partitions now, where their rows are not: stop the producers "
                "and move state and waiting events with `lurm repartition`"
            )

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Start owning; Faust would swallow an exception here."""
        del active_tps, standby_tps
        try:
            await self._ownership.activate()
        except Exception as error:  # noqa: BLE001 - the process dies here
            die(error)

    async def stop(self) -> None:
        """Finish what is in flight and close every database."""
        try:
            async with asyncio.timeout(_STOP_S):
                await self._ownership.close()
        except TimeoutError:
            die(f"batches in flight did not finish within {_STOP_S:.0f} s of the signal to stop")
        await super().stop()

    def reset_state(self) -> None:
        """Nothing to reset: `Ownership` opens and closes."""

    async def backup_partition(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not Faust's to do."""
        raise NotImplementedError

    def restore_backup(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not Faust's to do."""
        raise NotImplementedError

    def _refuse(self, *args: Any) -> NoReturn:
        raise NotImplementedError("rows are read and written through Ownership, in batches")

    _get = _set = _del = _contains = _clear = _refuse

    def _iterkeys(self) -> Iterator[bytes]:
        self._refuse()

    _itervalues = _iteritems = _iterkeys

    def _size(self) -> int:
        return sum(store.sizes()["rows"] for store in self._ownership.stores.values())


def _refuse_gap(messages: list[Any], applied: int) -> None:
    """Fetched batches follow each other, and the store; an empty store begins where its topic does."""
    position = messages[0].start if applied == NONE_APPLIED else applied + 1
    for each in messages:
        if each.start > position:
            die(
                f"the changelog was read with a gap: topic={each.topic} partition={each.partition} next={position} "
                f"found={each.start}; a start replays what is missing, and if that was deleted, one without "
                "LURM_STATE__DIR does"
            )
        position = max(position, each.next)


class Recovery(recovery.Recovery):
    """Faust's recovery, except that it never ends quietly: no later rebalance would bring it back (I8)."""

    async def _wait(self, coro: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109 - Faust's signature
        try:
            await super()._wait(coro, timeout)
        except recovery.ServiceStopped:
            # Faust takes a call that exceeded its time for a signal to stop.
            if not self.should_stop:
                die(f"the broker did not answer within {timeout} s during a recovery")
            raise

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Not after a recovery that a rebalance has ended: Faust drops the signal in its wait for the changelog."""
        if self.signal_recovery_start.is_set():
            raise recovery.RebalanceAgain
        await super().on_recovery_completed(generation_id)

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Refuse a changelog shorter than what was applied of it, in one line; Faust's own check is a traceback.

        A Kafka whose node had just come back was seen to say 0 once, and the right end before and after: it is asked
        again, since whoever believes the line removes a state.
        """
        for attempt in range(_ENDS_ASKED, 0, -1):
            await super()._build_highwaters(consumer, tps, destination, title)
            held = {tp: self.tp_to_table[tp].persisted_offset(tp) for tp in tps}
            shorter = {tp: applied for tp, applied in held.items() if applied is not None and applied > destination[tp]}
            if not shorter:
                return
            tp, applied = min(shorter.items())
            found = f"topic={tp.topic} partition={tp.partition} applied={applied} end={destination[tp] + 1}"
            if attempt > 1:
                logger.info("the changelog looks shorter than what was applied, asking again: %s", found)
                await asyncio.sleep(_ENDS_PAUSE_S)
        die(
            SourceLost(
                f"the changelog is shorter than what was applied; was it recreated? {found}; remove LURM_STATE__DIR "
                "and reset the group's offsets to build the state again"
            )
        )


class TableManager(manager.TableManager):
    """Faust's manager of tables, with our recovery."""

    _recovery: Recovery | None = None

    @property
    def recovery(self) -> Recovery:
        """Made on first use, as in Faust."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
