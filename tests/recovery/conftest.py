"""The fixtures of whole-worker tests, here too; the workers are forked, since these tests start dozens."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stream.settings import Settings
from stream.trial.embedded_broker import ApacheKafka
from tests.brokers import kafka_home
from tests.conftest import NO_KAFKA
from tests.cut_logs import start
from tests.recovery.forked import ForkedWorker
from tests.worker.conftest import MakeWorker, broker, bundle, own_broker, settings, settings_on

__all__ = ["broker", "bundle", "own_broker", "settings", "settings_on"]


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    """Makes workers, not started yet, with a log file each."""
    with ExitStack() as stack:
        made: list[ForkedWorker] = []

        def make(settings: Settings) -> ForkedWorker:
            log = tmp_path / f"worker-{len(made) + 1}.log"
            made.append(stack.enter_context(ForkedWorker(settings, log)))
            return made[-1]

        yield make


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """Real Kafka of the test's own, started: its logs may be cut, and it may be killed and started again."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    with start(ApacheKafka(home, tmp_path / "broker")) as kafka:
        yield kafka
