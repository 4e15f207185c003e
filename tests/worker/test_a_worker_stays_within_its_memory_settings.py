from collections import defaultdict
from pathlib import Path

from state.periods import MS_PER_DAY
from stream.settings import Encode, Kafka, Settings, State
from tests.brokers import FAST, Broker, producer
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import FIRST_DAY, N_INTERESTS, is_applied, wait_until

MIB = 1 << 20
# What one batch is while it is decoded, merged and sent, what one batch of users is while it is encoded, RocksDB's
# own structures, and what the allocator keeps.
MARGIN_BYTES = 100 * MIB
N_USERS, N_EVENTS, NOTE = 20_000, 40_000, b"x" * 600


def test_a_worker_stays_within_its_memory_settings(
    broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    """Through more bytes of events and more dirty users than fit, which are encoded a day before their time."""
    state = State(dir=tmp_path / "state", cache_bytes=8 * MIB, memtable_bytes=8 * MIB, marks_bytes=MIB)
    kafka = Kafka(brokers=broker.brokers, fetch_bytes=MIB // 4, buffer_bytes=3 * MIB, poll_events=1000, **FAST)
    settings = settings_on(broker.brokers, state=state, kafka=kafka, encode=Encode(interval_s=86_400))
    send(settings)
    worker = make_worker(settings).ready()
    at_start = worker.metric("lurm_process_resident_memory_bytes")
    highest: defaultdict[tuple[str, str], float] = defaultdict(float)
    cache, memtables = ("lurm_rocksdb_memory_bytes", "cache"), ("lurm_rocksdb_memory_bytes", "memtables")
    dirty, fetched = ("lurm_dirty_bytes", ""), ("lurm_fetched_bytes", "")

    def applied_and_seen() -> bool:
        for (name, labels), n_bytes in worker.samples().items():
            place = name, dict(labels).get("kind", "")
            highest[place] = max(highest[place], n_bytes)
        if not is_applied(settings):
            return False
        if all(highest[place] for place in (cache, memtables, dirty, fetched)):
            return True
        send(settings)  # The worker was faster than its gauges, which are set once a second.
        return False

    wait_until(applied_and_seen, explain=worker.output)
    print({name: n_bytes for name, n_bytes in highest.items() if name[0].endswith("_bytes")})
    assert highest[cache] <= 2 * state.cache_bytes
    assert highest[memtables] <= 2 * state.memtable_bytes
    assert highest[dirty] <= 2 * state.marks_bytes
    assert highest[fetched] <= kafka.buffer_bytes
    allowed = state.cache_bytes + state.memtable_bytes + state.marks_bytes + kafka.buffer_bytes + MARGIN_BYTES
    grown = highest["lurm_process_resident_memory_bytes", ""] - at_start
    assert grown <= allowed
    assert worker.metric("lurm_embeddings_published_total") > N_USERS / 2


def send(settings: Settings) -> None:
    with producer(settings) as client:
        for i in range(N_EVENTS):
            user, ts_ms = b"user-%05d" % (i % N_USERS), (FIRST_DAY + i // N_USERS) * MS_PER_DAY
            value = b'{"user_id":"%s","item_id":"item-%d","ts":%d,"note":"%s"}' % (user, i % N_INTERESTS, ts_ms, NOTE)
            client.send(settings.topics.events, value, user)
        client.flush()
