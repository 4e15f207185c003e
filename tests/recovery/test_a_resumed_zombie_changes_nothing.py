import random
import shutil
import signal
import time

import pytest

from stream.fatal import EXIT_FATAL
from stream.settings import Kafka
from tests.brokers import FAST, Broker
from tests.recovery.runs import halted_at
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import (
    Traffic,
    WorkerProcess,
    check_exact,
    check_published,
    second,
    stopped_after,
    wait_applied,
    wait_until,
)


@pytest.mark.kafka
def test_a_resumed_zombie_changes_nothing(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The embedded broker never ends a silent member's session."""
    settings = settings_on(kafka_broker.brokers)
    stop_and_resume(make_worker(settings), make_worker(second(settings)), silent_s=2 * settings.kafka.session_timeout_s)


@pytest.mark.kafka
def test_a_resumed_zombie_that_was_replaced_changes_nothing(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """The successor has the same static id, as a restarted pod has.

    The embedded broker lets the zombie in again, and then hides the changelog's end behind an aborted transaction.
    """
    settings = settings_on(kafka_broker.brokers)
    successor = second(settings).model_copy(update={"worker": settings.worker})
    stop_and_resume(make_worker(settings), make_worker(successor), silent_s=1.0)


@pytest.mark.kafka
def test_a_zombie_that_wakes_within_its_recovery_blames_no_changelog(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """What it recovers ends where its successor began, behind the group's offset."""
    # A heartbeat every 3 s, so that the zombie does not hear first that it was replaced.
    kafka = Kafka(brokers=kafka_broker.brokers, **FAST | {"session_timeout_s": 30, "request_timeout_s": 40})
    settings = settings_on(kafka_broker.brokers, kafka=kafka)
    twin = second(settings).model_copy(update={"worker": settings.worker})
    traffic, zombie, successor = Traffic(settings, seed=84), make_worker(settings), make_worker(twin)
    stopped_after(zombie, traffic)
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    halted_at(zombie, "recovery.replayed")
    successor.ready()
    handed_over({successor: 2})
    with traffic.flowing(1000):
        wait_applied(settings, successor, share=0.9)
        zombie.signal(signal.SIGCONT)
        assert zombie.wait() == EXIT_FATAL, zombie.output()
    assert "SourceLost" not in zombie.output()
    wait_applied(settings, successor)
    check_exact(settings, traffic.sent)
    check_published(settings)


def stop_and_resume(zombie: WorkerProcess, successor: WorkerProcess, silent_s: float) -> None:
    seed = random.randrange(10**6)
    settings, traffic = successor.settings, Traffic(successor.settings, seed)
    zombie.ready()
    with traffic.flowing(1000):
        time.sleep(random.Random(seed).random())
        zombie.signal(signal.SIGSTOP)
        stopped_at_s = time.monotonic()
        successor.ready()
        handed_over({successor: 2})
        n_before = successor.metric("lurm_events_total", outcome="applied")
        wait_until(lambda: successor.metric("lurm_events_total", outcome="applied") > n_before)
        time.sleep(max(0.0, silent_s - (time.monotonic() - stopped_at_s)))
        zombie.signal(signal.SIGCONT)
        wait_until(
            lambda: zombie.returncode is not None or zombie.metric("lurm_partitions", role="active") == 1,
            explain=zombie.output,
        )
        time.sleep(2)
    print(f"the zombie's end: {zombie.returncode}", zombie.output()[-1500:])
    assert zombie.returncode in {None, EXIT_FATAL}, zombie.output()
    assert successor.returncode is None, successor.output()
    wait_applied(settings, successor)
    check_exact(settings, traffic.sent)
    check_published(settings)
