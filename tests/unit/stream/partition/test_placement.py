"""What a worker says of users who lie where the topic's partitioner does not put them."""

import logging

import pytest

from stream.metrics import WorkerMetrics
from stream.partition.placement import Placement
from stream.records.partitioners import Partitioner, partitions_of

USERS = [b"user-%d" % k for k in range(5000)]


def in_partition(number: int, partitioner: Partitioner) -> list[bytes]:
    homes = partitions_of(USERS, 8, partitioner).tolist()
    return [user for user, home in zip(USERS, homes, strict=True) if home == number]


def counts(metrics: WorkerMetrics) -> tuple[float, float]:
    value = metrics.registry.get_sample_value
    right, wrong = (value("lurm_placed_users_total", {"place": each}) for each in ("right", "wrong"))
    return right or 0, wrong or 0


def test_users_in_their_place_are_counted_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    metrics = WorkerMetrics()
    users = in_partition(3, "murmur2")
    Placement("events", 8, "murmur2", metrics).look(users, 3, 0)
    assert counts(metrics) == (len(users), 0)
    assert not caplog.records


def test_users_that_another_producer_sent_are_counted_and_its_partitioner_is_named_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = WorkerMetrics()
    placement, mixed = Placement("events", 8, "murmur2", metrics), in_partition(3, "crc32")
    for now_ms in (10**12, 10**12 + 1000, 10**12 + 600_000):
        placement.look(mixed, 3, now_ms)
    n_right = len(set(mixed) & set(in_partition(3, "murmur2")))
    assert counts(metrics) == (3 * n_right, 3 * (len(mixed) - n_right))
    first, _ = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert f"users={len(mixed) - n_right} of={len(mixed)} placed_by=crc32 (librdkafka's default" in first
    assert "partitioner=murmur2_random" in first
    assert "LURM_TOPICS__PARTITIONER" in first
    assert "user-" not in first


def test_of_a_large_batch_a_spread_sample_is_looked_at() -> None:
    metrics = WorkerMetrics()
    Placement("events", 8, "murmur2", metrics).look([*in_partition(0, "murmur2"), *USERS], 0, 0)
    right, wrong = counts(metrics)
    assert 900 < right + wrong <= 1024
    assert wrong > 600


def test_any_partitioner_is_not_looked_at() -> None:
    metrics = WorkerMetrics()
    Placement("events", 8, "any", metrics).look(USERS, 0, 0)
    assert counts(metrics) == (0, 0)
