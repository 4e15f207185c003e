import shutil
from contextlib import closing

from kafka import KafkaAdminClient, TopicPartition

from stream.connection import client_arguments
from stream.settings import Kafka, Settings
from stream.topics import create_missing, end_offsets
from tests.brokers import FAST
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, WorkerProcess, check_exact, wait_applied, wait_until


def stopped_after(settings: Settings, make_worker: MakeWorker, traffic: Traffic) -> WorkerProcess:
    worker = make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    assert worker.terminate() == 0
    return worker


def test_a_recreated_source_stops_the_worker(one_settings: Settings, make_worker: MakeWorker) -> None:
    worker = stopped_after(one_settings, make_worker, Traffic(one_settings, seed=13))
    recreate(one_settings, one_settings.topics.events)
    assert "the source topic is shorter than what was applied; was it recreated?" in refusal(worker, 1)


def test_a_recreated_changelog_stops_the_worker_with_and_without_its_disk(
    one_settings: Settings, make_worker: MakeWorker
) -> None:
    worker = stopped_after(one_settings, make_worker, Traffic(one_settings, seed=17))
    recreate(one_settings, one_settings.changelog_topic)
    assert "the changelog is shorter than what was applied; was it recreated?" in refusal(worker, 1)
    assert one_settings.state.dir is not None
    shutil.rmtree(one_settings.state.dir)
    assert "the changelog is behind the group's offset; was it deleted?" in refusal(worker, 1)


def recreate(settings: Settings, topic: str) -> None:
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics())
    wait_until(lambda: topic in create_missing(settings))


def test_retention_of_unread_events_stops_the_worker_unless_loss_is_accepted(
    one_settings: Settings, make_worker: MakeWorker
) -> None:
    traffic = Traffic(one_settings, seed=14)
    worker = stopped_after(one_settings, make_worker, traffic)
    read = list(traffic.sent)
    before = end_offsets(one_settings, one_settings.topics.events)
    traffic.send(300)
    ends = end_offsets(one_settings, one_settings.topics.events)
    with closing(KafkaAdminClient(**client_arguments(one_settings.kafka))) as admin:
        admin.delete_records({TopicPartition(one_settings.topics.events, number): end for number, end in ends.items()})
    assert "retention deleted unread events" in refusal(worker, 1)

    accepting = Kafka(brokers=one_settings.kafka.brokers, **FAST, data_loss="accept")
    worker = make_worker(one_settings.model_copy(update={"kafka": accepting})).ready()
    assert sum(ends.values()) - sum(before.values()) == 300
    wait_until(lambda: worker.metric("lurm_lost_events_total") == 300)
    late = Traffic(one_settings, seed=15)
    late.send(100)
    wait_applied(one_settings, worker)
    check_exact(one_settings, read + late.sent)
