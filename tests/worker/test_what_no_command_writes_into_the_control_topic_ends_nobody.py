"""Whoever may write to the control topic can erase users, and do nothing else: worker and command go on."""

import json
from typing import Any

from stream.records.partitioners import partitions_of
from stream.settings import Settings
from tests.brokers import producer
from tests.erasures import check_exact_without, erased, life
from tests.worker.conftest import MakeWorker
from tests.workers import Changelog, Traffic, wait_applied, wait_until


def test_what_no_command_writes_into_the_control_topic_ends_nobody(settings: Settings, make_worker: MakeWorker) -> None:
    traffic, ann = Traffic(settings, seed=73), life("ann", 4)
    traffic.send(200)
    traffic.send_these(ann)
    huge = [marker(id=str(number), user="x" * 900_000) for number in range(12)]
    odd = [
        marker(id="o1", requested_at_ms=10**18),
        marker(id="o2", requested_at_ms=-1),
        marker(id="o3", user="a\0b"),
        b"{",
        None,
    ]
    send_control(settings, [*huge, *odd])
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    wait_until(lambda: worker.metric("lurm_refused_control_records_total") == 17, explain=worker.output)
    # One that could have been written, but whose end no source has: it is taken for the source's own.
    send_control(settings, [marker(id="far", user="ann", end_offset=2**61)])
    wait_until(lambda: worker.metric("lurm_erasures_total") == 1, explain=worker.output)
    traffic.send_these(ann[:2])
    wait_applied(settings, worker)
    assert b"ann" in Changelog(settings).newest_seq(), "an end behind the source would have taken every later life"
    receipt = erased(settings, "ann")
    assert receipt.removed.rows == 2
    assert [len(former.partitions) for former in receipt.earlier] == [1]
    check_exact_without(settings, [receipt])
    assert max(len(each.value or b"") for each in Changelog(settings).records) < 10_000
    assert worker.terminate() == 0, worker.output()


def marker(**changes: Any) -> bytes:
    """As anybody could write one."""
    fine = {"kind": "erase", "id": "1f", "user": "eve", "end_offset": 2**40, "embedded": False, "requested_at_ms": 0}
    return json.dumps(fine | changes).encode()


def send_control(settings: Settings, values: list[bytes | None]) -> None:
    """Into the partition of the user ann's events."""
    (number,) = partitions_of([b"ann"], settings.topics.partitions, "murmur2").tolist()
    with producer(settings) as client:
        for value in values:
            client.send(settings.control_topic, value, b"anything", partition=number)
        client.flush()
