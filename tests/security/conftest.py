"""A Kafka with TLS and logins for the session, and the fixtures of whole workers."""

from collections.abc import Callable, Iterator

import pytest

from stream.cli import run
from stream.settings import Settings
from tests.brokers import environment_of, kafka_home
from tests.conftest import NO_KAFKA
from tests.secured import SecuredKafka
from tests.worker.conftest import bundle, make_worker

__all__ = ["bundle", "make_worker"]
Lurm = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Apache Kafka that lets nobody in who does not log in, or the test is skipped."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    kafka = SecuredKafka(home, tmp_path_factory.mktemp("secured"))
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.broker.stop()


@pytest.fixture
def lurm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lurm:
    """Run a command with these settings: (exit code, stdout, stderr)."""

    def call(settings: Settings, *arguments: object) -> tuple[int, str, str]:
        with monkeypatch.context() as context:
            for name, value in environment_of(settings).items():
                context.setenv(name, value)
            code = run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
