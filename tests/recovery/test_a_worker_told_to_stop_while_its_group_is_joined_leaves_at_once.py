"""A member waits to join until all others have joined, which takes as long as the slowest; a stop does not."""

import signal
import time
from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from stream.kafka.connection import client_arguments
from stream.settings import Kafka, Settings, Worker
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, check_exact, second, wait_applied, wait_until

SESSION_S = 30.0


def members(settings: Settings) -> tuple[str, int]:
    """The state of the group, and how many it has or waits for."""
    with closing(KafkaAdminClient(**client_arguments(settings.kafka))) as admin:
        group = admin.describe_groups([settings.app.id])[settings.app.id]
        return group["group_state"], len(group["members"])


@pytest.mark.kafka
@pytest.mark.parametrize("was_member", [False, True], ids=["for the first time", "again"])
def test_a_worker_told_to_stop_while_its_group_is_joined_leaves_at_once(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, was_member: bool
) -> None:
    kafka = Kafka(
        brokers=kafka_broker.brokers, **FAST | {"session_timeout_s": SESSION_S, "request_timeout_s": 2 * SESSION_S}
    )
    settings = settings_on(kafka_broker.brokers, kafka=kafka, worker=Worker())
    traffic = Traffic(settings, seed=67)
    traffic.send(500)
    slow, leaving = make_worker(settings).ready(), make_worker(second(settings))
    if was_member:
        leaving.ready()
        handed_over({slow: 1, leaving: 1})
    wait_applied(settings, slow)
    n_others = members(settings)[1]
    slow.signal(signal.SIGSTOP)
    # Whoever comes makes all others join again, and waits for them.
    coming = make_worker(second(settings, "c")) if was_member else leaving
    coming.start()
    wait_until(lambda: members(settings) == ("PreparingRebalance", n_others + 1), explain=coming.output)
    if was_member:
        # It hears of it with its next heartbeat.
        time.sleep(2 * SESSION_S / 10)
    assert leaving.terminate() == 0, leaving.output()
    assert members(settings) == ("PreparingRebalance", n_others), "one too many, or few, is waited for"
    slow.signal(signal.SIGCONT)
    wait_applied(settings, slow)
    check_exact(settings, traffic.sent)
