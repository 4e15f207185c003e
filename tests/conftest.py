"""Fixtures of all tests: an environment without settings, brokers that live for the session, fresh names."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from stream.settings import ENV_PREFIX
from tests.brokers import Broker, MakeSettings, fresh_settings, kafka_home, new_broker

# A busy machine is no reason to fail.
hypothesis_settings.register_profile("lurm", deadline=None, print_blob=True)
hypothesis_settings.load_profile("lurm")

NO_KAFKA = "set KAFKA_HOME to an Apache Kafka distribution to run this on real Kafka"
KINDS = ["embedded", "kafka"] if kafka_home() else ["embedded"]


def pytest_configure(config: pytest.Config) -> None:
    """A refused connection leaves kafka-python's socket to the garbage collector: not ours to close.

    Such a socket never got an address of its own; every other unclosed socket stays an error.
    """
    config.addinivalue_line("filterwarnings", "ignore:unclosed .socket.socket.*laddr=.'0.0.0.0':ResourceWarning")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def session_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Broker]]:
    """One broker of each kind, each started when the first test asks for it."""
    brokers = {kind: new_broker(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    yield brokers
    for each in brokers.values():
        each.stop()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, session_brokers: dict[str, Broker]) -> Broker:
    """The test runs on the embedded broker and, where there is one, also on real Kafka, or on one that it names."""
    if request.param not in session_brokers:
        pytest.skip(NO_KAFKA)
    return session_brokers[request.param].start()


@pytest.fixture
def kafka_broker(session_brokers: dict[str, Broker]) -> Broker:
    """Real Apache Kafka, or the test is skipped."""
    if "kafka" not in session_brokers:
        pytest.skip(NO_KAFKA)
    return session_brokers["kafka"].start()


@pytest.fixture(params=KINDS)
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, not started: to be stopped, killed and started again."""
    broker = new_broker(request.param, tmp_path / "broker")
    yield broker
    broker.kill()


@pytest.fixture
def make_settings(broker: Broker) -> MakeSettings:
    """Makes settings with fresh names on the test's broker: ``make_settings(partitions=4, model=Model(...))``."""
    return partial(fresh_settings, broker.brokers)


@pytest.fixture
def make_kafka_settings(kafka_broker: Broker) -> MakeSettings:
    """As `make_settings`, on real Kafka only."""
    return partial(fresh_settings, kafka_broker.brokers)
