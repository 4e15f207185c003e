import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stream.embedding import EmbeddingConsumer
from stream.records.embedding_record import Embedding
from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, check_exact, wait_applied, wait_until


def test_a_group_of_two_consumers_reads_every_users_newest_embedding(
    settings: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(settings, seed=6)
    worker = make_worker(settings).ready()
    with member(settings) as one, member(settings) as two:
        with traffic.flowing(300):
            wait_until(lambda: min(len(one), len(two)) > 50)
        wait_applied(settings, worker)
        expected = check_exact(settings, traffic.sent).newest_seq()
        wait_until(lambda: newest([*one, *two]) == expected)
    assert {each.vectors.shape for each in one + two} == {(4, 8)}


@contextmanager
def member(settings: Settings) -> Iterator[list[Embedding]]:
    """One member of the readers' group on a thread of its own; yields what it reads."""
    read: list[Embedding] = []
    stop = threading.Event()

    def run() -> None:
        topic, group = settings.topics.embeddings, f"{settings.app.id}-readers"
        with EmbeddingConsumer(settings.kafka.brokers, topic, group_id=group, from_beginning=True) as consumer:
            while not stop.is_set():
                read.extend(each for each in consumer.poll(0.2) if isinstance(each, Embedding))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield read
    finally:
        stop.set()
        thread.join()


def newest(read: list[Embedding]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for each in read:
        found[each.user_id.encode()] = max(each.seq, found.get(each.user_id.encode(), 0))
    return found
