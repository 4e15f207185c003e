"""A rolling deploy of another bundle: the new worker must end, and the old one go on with what it was given.

Who ends without a word leaves the group when its session is over, of which the embedded broker knows nothing.
"""

from pathlib import Path

import pytest

from stream.settings import Model, Settings, Worker
from tests.brokers import Broker
from tests.worker.conftest import MakeSettingsOn, MakeWorker, handed_over, refusal
from tests.workers import Traffic, check_exact, check_published, second, tiny_bundle, wait_applied


@pytest.mark.kafka
def test_a_worker_with_other_scales_is_refused_and_leaves_the_others_exact(
    kafka_broker: Broker, settings_on: MakeSettingsOn, make_worker: MakeWorker, tmp_path: Path
) -> None:
    settings = settings_on(kafka_broker.brokers, worker=Worker())
    tiny_bundle(scales="day,week").save(tmp_path / "weekly")
    traffic, worker = Traffic(settings, seed=43), make_worker(settings).ready()
    traffic.send(500)
    wait_applied(settings, worker)
    with traffic.flowing(200):
        assert "counted with other scales" in refusal(make_worker(weekly(settings, tmp_path / "weekly")), 2)
        handed_over({worker: 2})
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)


def weekly(settings: Settings, bundle: Path) -> Settings:
    return second(settings).model_copy(update={"model": Model(bundle=bundle, device="cpu")})
