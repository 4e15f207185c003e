"""Events of unknown items whose attributes were never seen: their interests are looked for beside the event loop."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from lurm_model.interests.attribute_sets import SETS_AT_ONCE
from state.rows import RECORD_KEY
from stream.records.outgoing import Outgoing
from stream.settings import Settings, Topics
from stream.testing import Harness
from tests.workers import bundle_with_kinds

NOW_MS = 1_700_000_000_000


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness(bundle_with_kinds(), Settings(topics=Topics(partitions=2)), lambda: NOW_MS) as made:
        yield made


def append(harness: Harness, number: int, *kinds: int | None) -> None:
    """Events of known items, or of unknown ones of these kinds."""
    for kind in kinds:
        event = {"user_id": f"u{number}", "item_id": "item-3" if kind is None else f"new-{kind}", "ts": NOW_MS}
        more = {} if kind is None else {"attributes": {"kind": str(kind)}}
        sent = Outgoing(f"u{number}".encode(), json.dumps(event | more).encode())
        harness.topics.append(harness.settings.topics.events, number, sent, NOW_MS)


async def applied(harness: Harness, number: int, current: list[bool]) -> None:
    partition = harness.partitions[number]
    records = harness.topics.read(harness.settings.topics.events, number, partition.record.next_offset)
    await partition.apply(records, records[-1].offset + 1, lambda: current[0])


def test_a_partition_that_looks_for_interests_keeps_no_other_waiting(harness: Harness) -> None:
    append(harness, 0, 4, 5)
    append(harness, 1, None, None)

    async def scenario() -> None:
        free = threading.Event()
        harness.shared.assigning.submit(free.wait)
        looking = asyncio.create_task(applied(harness, 0, [True]))
        await asyncio.sleep(0)
        await applied(harness, 1, [True])
        assert [harness.partitions[number].record.ledger.applied for number in (0, 1)] == [0, 2]
        free.set()
        await looking

    harness._run(scenario())
    assert [harness.partitions[number].record.ledger.applied for number in (0, 1)] == [2, 2]
    assert {interest for bag in harness.bags("u0").values() for interest in bag} == {4, 5}


def test_a_batch_that_a_rebalance_overtakes_meanwhile_is_left_to_the_next_owner(harness: Harness) -> None:
    append(harness, 0, 4, None, 5)
    current = [True]

    async def scenario() -> None:
        free = threading.Event()
        harness.shared.assigning.submit(free.wait)
        looking = asyncio.create_task(applied(harness, 0, current))
        await asyncio.sleep(0)
        current[0] = False
        free.set()
        await looking

    harness._run(scenario())
    assert harness.ledger.received == 0
    harness.apply()
    assert harness.ledger.applied == 3
    assert {interest for bag in harness.bags("u0").values() for interest in bag} == {3, 4, 5}


def test_a_batch_of_many_new_sets_is_applied_in_parts_so_that_the_source_is_seen_to_move(harness: Harness) -> None:
    n = 3 * SETS_AT_ONCE
    for i in range(n):
        kinds = [str(kind) for kind in range(20) if (i + 1) >> kind & 1]
        event = {"user_id": "u0", "item_id": "new", "ts": NOW_MS, "attributes": {"kind": kinds}}
        harness.topics.append(harness.settings.topics.events, 0, Outgoing(b"u0", json.dumps(event).encode()), NOW_MS)
    harness.apply()
    written = harness.topics.read(harness.settings.changelog_topic, 0)
    assert sum(record.key == RECORD_KEY for record in written) > 3
    assert harness.ledger.applied == harness.partitions[0].record.next_offset == n
    (day,) = [bag for (scale, _), bag in harness.bags("u0").items() if scale == "day"]
    assert sum(day.values()) == n
