from stream.settings import Settings
from tests.brokers import read_records
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, check_published, wait_applied

CODECS = ("gzip", "snappy", "lz4", "zstd")


def test_events_of_any_compression_are_counted(settings: Settings, make_worker: MakeWorker) -> None:
    worker = make_worker(settings).ready()
    traffic = Traffic(settings, seed=53)
    for codec in CODECS:
        traffic.send(200, codec)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    # The commands read with another client.
    assert len(read_records(settings, settings.topics.events, range(settings.topics.partitions))) == len(traffic.sent)
