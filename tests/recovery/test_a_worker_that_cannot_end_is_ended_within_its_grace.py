from stream.fatal import EXIT_FATAL
from stream.settings import Worker
from tests.brokers import Broker
from tests.recovery.runs import check_disk
from tests.worker.conftest import MakeSettingsOn, MakeWorker
from tests.workers import Traffic, check_exact, check_published, is_applied, wait_applied, wait_until


def test_a_worker_that_cannot_end_is_ended_within_its_grace(
    one_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker
) -> None:
    """A thread that never comes back would keep the process after all else has ended."""
    settings = settings_on(one_broker.brokers, worker=Worker(instance="a", stop_s_max=2.0))
    traffic = Traffic(settings, seed=71)
    traffic.send(1000)
    worker = make_worker(settings).start("encode.started:1=300")
    wait_until(lambda: is_applied(settings) and worker.metric("lurm_ready"), explain=worker.output)
    assert worker.terminate() == EXIT_FATAL, worker.output()
    assert "the end has not moved for" in worker.output()
    worker.ready()
    assert worker.metric("lurm_exits_total", how="watchdog") == 1
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    check_disk(worker)
