"""The embeddings topic comes back without its newest records: nothing in rows or marks says who is missing."""

import signal

import pytest

from stream.kafka.topics import end_offsets
from stream.settings import Encode, Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.cut_logs import lose_end
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Changelog, Traffic, check_exact, check_published, newest_published, wait_applied, wait_until


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.parametrize("comes", [True, False], ids=["an event comes", "nothing comes"])
def test_embeddings_that_their_topic_lost_are_published_again(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker, comes: bool
) -> None:
    encode = Encode(interval_s=0.2, batch_users=4)
    settings = settings_on(own_kafka.brokers, partitions=1, worker=Worker(), encode=encode)
    traffic, worker = Traffic(settings, seed=77), make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    check_published(settings)
    n_published = end_offsets(settings, settings.topics.embeddings)[0]
    wait_until(lambda: n_published - Changelog(settings).partitions[0].embeddings_end <= 1)
    assert worker.terminate() == 0, worker.output()
    before = newest_published(settings)
    lose_end(own_kafka, settings.topics.embeddings, n_published // 2, behind_marker=True)
    assert len(newest_published(settings)) < len(before)
    worker.ready()
    if comes:
        traffic.send(1)
        assert worker.wait() not in (0, -signal.SIGKILL), worker.output()
        assert "has it lost its end?" in worker.output()
        worker.ready()
    check_published(settings)
    assert comes or "the embeddings topic has lost its end" in worker.output()
    check_exact(settings, traffic.sent)
