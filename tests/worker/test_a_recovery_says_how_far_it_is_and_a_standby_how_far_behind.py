import re
import shutil

import pytest

from stream.settings import Encode, Kafka, Settings
from tests.brokers import FAST, Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over
from tests.workers import Changelog, Traffic, check_exact, second, wait_applied, wait_until

_PROGRESS = re.compile(r"recovering: done=\d+ remaining=(\d+) rows_per_s=\w+ eta_s=\w+")
_RECOVERED = re.compile(r"recovered: partitions=\[0\] replayed_rows=(\d+)")


@pytest.fixture
def settings(broker: Broker, settings_on: MakeSettingsOn) -> Settings:
    """Fetches of a hundred rows, so that a small changelog takes many."""
    kafka = Kafka(brokers=broker.brokers, **FAST, poll_events=100)
    return settings_on(broker.brokers, kafka=kafka, partitions=1, encode=Encode(interval_s=86_400))


def test_a_recovery_reports_what_is_left_while_it_is_not_ready(settings: Settings, make_worker: MakeWorker) -> None:
    traffic = Traffic(settings, seed=31)
    traffic.send(4000)
    worker = make_worker(settings).start("batch.merged:2=3")
    wait_until(lambda: worker.metric("lurm_fetched_bytes") > 0, explain=worker.output)
    wait_applied(settings, worker)
    wait_until(lambda: worker.metric("lurm_fetched_bytes") == 0, explain=worker.output)
    worker.kill()
    assert settings.state.dir is not None
    shutil.rmtree(settings.state.dir)
    n_rows = len(Changelog(settings).records)

    worker.start("recovery.replayed:2+=1")
    wait_until(lambda: worker.metric("lurm_recovery_remaining_rows") > 0, explain=worker.output)
    assert worker.get("/readyz")[0] == 503
    assert 0 < worker.metric("lurm_recovery_remaining_rows") <= 2 * n_rows
    worker.ready()
    assert worker.metric("lurm_recovery_remaining_rows") == worker.metric("lurm_recovery_eta_seconds") == 0
    assert worker.metric("lurm_replayed_rows_total") == n_rows
    found = _RECOVERED.search(worker.output())
    assert found is not None
    assert int(found[1]) == n_rows
    assert all(0 < int(left) <= 2 * n_rows for left in _PROGRESS.findall(worker.output()))
    assert _PROGRESS.search(worker.output()), worker.output()
    check_exact(settings, traffic.sent)


def test_a_standbys_lag_follows_what_the_owner_writes(settings: Settings, make_worker: MakeWorker) -> None:
    settings = settings.model_copy(update={"state": settings.state.model_copy(update={"standbys": 1})})
    traffic = Traffic(settings, seed=32)
    traffic.send(500)
    owner, standby = make_worker(settings), make_worker(second(settings))
    owner.ready()
    standby.start("recovery.replayed:8=3")
    wait_until(lambda: standby.metric("lurm_partitions", role="standby") == 1, explain=standby.output)
    handed_over({owner: 1})
    with traffic.flowing(2000):
        wait_until(lambda: standby.metric("lurm_standby_lag_rows") > 0, explain=standby.output)
    wait_applied(settings, owner)
    wait_until(lambda: standby.metric("lurm_standby_lag_rows") == 0, explain=standby.output)
    changelog = check_exact(settings, traffic.sent)
    wait_until(lambda: standby.metric("lurm_replayed_rows_total") == len(changelog.records), explain=standby.output)
