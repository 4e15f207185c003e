"""A hidden cache beside a day that was rolled up without it, and a late event that makes a new row of that day."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lurm_model.inference.incremental import IncrementalEncoder
from stream import failpoints
from stream.testing.bundle import FIRST_DAY, tiny_bundle
from tests.one_partition import Model, OnePartition, on_day

MODEL = Model(tiny_bundle(), IncrementalEncoder(tiny_bundle(), "cpu"))


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path, [MODEL])
    yield made
    made.close()


def test_events_two_months_ahead_while_an_encode_is_in_flight_and_then_one_of_the_day_after_the_closed_one(
    partition: OnePartition,
) -> None:
    partition.apply(on_day(b"ann", FIRST_DAY - 100), on_day(b"ann", FIRST_DAY), on_day(b"ann", FIRST_DAY + 1, 3))
    partition.run(partition.owner.begin_encode(before="written"))
    partition.apply(on_day(b"ann", FIRST_DAY + 100, 5))
    partition.run(partition.owner.end_encode())
    partition.apply(on_day(b"ann", FIRST_DAY + 1, 7))
    partition.run(partition.owner.encode_all())
    partition.check_published()


def test_killed_between_a_roll_up_and_the_new_cache_and_then_an_event_of_the_day_after_the_closed_one(
    partition: OnePartition,
) -> None:
    partition.apply(on_day(b"ann", FIRST_DAY), on_day(b"ann", FIRST_DAY + 1, 3))
    partition.run(partition.owner.encode_all())
    partition.apply(on_day(b"ann", FIRST_DAY + 100, 5))
    kill_at(partition, "roll_up.applied")
    partition.apply(on_day(b"ann", FIRST_DAY + 1, 7))
    partition.run(partition.owner.encode_all())
    partition.check_published()


def kill_at(partition: OnePartition, step: str) -> None:
    failpoints._failpoint.arm(f"{step}=raise")
    with pytest.raises(RuntimeError, match=step):
        partition.run(partition.owner.encode_all())
    partition.run(partition.owner.kill())
    partition.owner.start()
    partition.run(partition.owner.own())
