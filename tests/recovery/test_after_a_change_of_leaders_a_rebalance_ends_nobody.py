"""A leader that lost nothing, then a rebalance: what an owner wrote itself is nothing that its changelog has lost."""

import pytest

from stream.settings import Worker
from stream.trial.embedded_broker import ApacheKafka
from tests.cut_logs import start
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Traffic, check_exact, check_published, second, stopped_after, wait_applied, wait_until


@pytest.mark.slow
@pytest.mark.kafka
def test_after_a_change_of_leaders_a_rebalance_ends_nobody(
    own_kafka: ApacheKafka, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    settings = settings_on(own_kafka.brokers, worker=Worker())
    settings = settings.model_copy(update={"state": settings.state.model_copy(update={"standbys": 1})})
    traffic, one, other = Traffic(settings, seed=69), make_worker(settings), make_worker(second(settings))
    stopped_after(one, traffic)
    # It reads the end of its changelog, as every start does.
    one.ready()
    own_kafka.kill()
    start(own_kafka)
    traffic.send(300)
    wait_applied(settings, one)
    with traffic.flowing(100):
        other.ready()
        handed_over({one: 1, other: 1})
        wait_until(lambda: one.metric("lurm_standby_lag_rows") == 0, explain=one.output)
    wait_applied(settings, one, other)
    check_exact(settings, traffic.sent)
    check_published(settings)
