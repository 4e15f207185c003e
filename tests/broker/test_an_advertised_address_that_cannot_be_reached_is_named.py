from pathlib import Path

import pytest

from stream.cli import run
from stream.settings import Kafka
from stream.trial.embedded_broker import HOST, ApacheKafka, free_ports
from tests.brokers import FAST, environment_of, fresh_settings, kafka_home
from tests.conftest import NO_KAFKA


def test_an_advertised_address_that_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from outside a container network: the port answers, and sends its clients to a name that is known inside."""
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    broker = ApacheKafka(home, tmp_path / "broker")
    outside, nobody = free_ports(2)
    broker.properties.update({
        "listeners": f"PLAINTEXT://{broker.brokers},OUT://{HOST}:{outside},CONTROLLER://{HOST}:{broker.controllers[0]}",
        "advertised.listeners": f"PLAINTEXT://{broker.brokers},OUT://{HOST}:{nobody}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OUT:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    })  # fmt: skip
    address = f"{HOST}:{outside}"
    settings = fresh_settings(address, kafka=Kafka(brokers=address, **FAST | {"start_deadline_s": 3.0}))
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    try:
        broker.start()
        for command in ("topics check", "lag", "inspect --ledger"):
            assert run(command.split()) == 1
            said = capsys.readouterr().err
            assert f"{address} answers and tells clients to come to {HOST}:{nobody}" in said
            assert "advertised.listeners" in said
    finally:
        broker.kill()
