import resource
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from stream.kafka.connection import client_arguments
from stream.records.dead_letters import PREFIX
from stream.settings import Settings
from tests.brokers import Broker, read_records
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, WorkerProcess, check_exact, check_published, value_of, wait_applied

MIB = 1 << 20
# Values of one batch each, beside good events: too large, no JSON and yet no larger than an event may be, and one
# larger than anything that is read.
BOMBS = ([b"x" * MIB] * 400, [b"{" + b"x" * 64_000] * 6_000, [b"x" * (64 * MIB)])
# What the records of a few batches take, and the allocator beside them; the bombs take 400 MiB each.
GROWN_BYTES_MAX = 300 * MIB


def memory_bytes(worker: WorkerProcess, field: str) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) << 10


def send_in_one_batch(settings: Settings, values: list[bytes], good: bytes) -> None:
    huge = {"batch_size": 1 << 30, "max_request_size": 1 << 30, "linger_ms": 60_000}
    with closing(KafkaProducer(**client_arguments(settings.kafka), compression_type="zstd", **huge)) as client:
        for value in (good, *values, good):
            client.send(settings.topics.events, value, b"user-1")
        client.flush()


@pytest.mark.kafka
def test_a_batch_that_decompresses_to_gigabytes_costs_a_worker_little_memory(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """It fits where it was sent; good events in it count, and the dead letters do not repeat what nobody sent."""
    settings = settings_on(kafka_broker.brokers)
    traffic, worker = Traffic(settings, seed=61), make_worker(settings).ready()
    traffic.send(40)
    wait_applied(settings, worker)
    before_bytes = memory_bytes(worker, "VmHWM")
    limit = memory_bytes(worker, "VmSize") + 1024 * MIB
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
    for values in BOMBS:
        good = traffic.events(1)[0]._replace(user=b"user-1")
        send_in_one_batch(settings, values, value_of(good))
        traffic.sent += [good, good]
    traffic.send(40)
    wait_applied(settings, worker)
    assert memory_bytes(worker, "VmHWM") - before_bytes <= GROWN_BYTES_MAX
    letters = read_records(settings, settings.topics.dead_letters, range(settings.topics.partitions))
    assert len(letters) == sum(map(len, BOMBS))
    assert sum(len(letter.value or b"") for letter in letters) < 40 * MIB
    for letter in letters:
        headers = dict(letter.headers)
        assert letter.key == b"user-1"
        assert letter.value is not None or int(headers[f"{PREFIX}bytes"]) > 64_000
    check_exact(settings, traffic.sent, n_rejected=len(letters))
    check_published(settings)
