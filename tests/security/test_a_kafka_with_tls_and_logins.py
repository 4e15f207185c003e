"""Every client of ours reaches a real Kafka with TLS in each supported way, and none tells a secret."""

import asyncio
import json
import logging
import re
from pathlib import Path

import pytest

from stream.security import TokenFile
from stream.settings import Kafka, Settings, Worker
from tests.brokers import fresh_settings
from tests.secured import CANARY, WAYS_IN, SecuredKafka
from tests.security.conftest import Lurm
from tests.worker.conftest import MakeWorker, refusal
from tests.workers import Traffic, check_exact, check_published, value_of, wait_applied, worker_settings

DEBUG = Worker(instance="a", log_level="DEBUG")


def settings_of(kafka: Kafka, folder: Path, bundle: Path) -> Settings:
    return worker_settings(kafka.brokers, folder, bundle, kafka=kafka, worker=DEBUG)


def test_a_worker_and_all_tools_work_over_scram_and_never_show_the_password(
    secured: SecuredKafka, bundle: Path, tmp_path: Path, make_worker: MakeWorker, lurm: Lurm
) -> None:
    settings = settings_of(secured.settings(), tmp_path, bundle)
    traffic = Traffic(settings, seed=7)
    file = tmp_path / "events.jsonl"
    traffic.sent = [traffic._event() for _ in range(300)]
    file.write_bytes(b"\n".join(map(value_of, traffic.sent)))
    said = [lurm(settings, "produce", file), lurm(settings, "lag", "--json")]
    assert json.loads(said[-1][1])["total"]["lag_events"] == 300
    worker = make_worker(settings).ready()
    traffic.send(200)
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    check_published(settings)
    user = traffic.sent[0].user.decode()
    tools = (
        ["topics", "check"], ["lag"], ["consume", "--from-beginning", "--max", 5], ["export", "bags"],
        ["export", "embeddings"], ["inspect", user], ["inspect", "--ledger"], ["verify"], ["erase", user], ["settings"],
    )  # fmt: skip
    said += [lurm(settings, *command) for command in tools]
    assert worker.terminate() == 0
    assert [code for code, _, _ in said] == [0] * len(said), said
    assert CANARY not in str(said)
    assert "DEBUG" in worker.output()
    assert CANARY not in worker.output()


@pytest.mark.parametrize("way_in", WAYS_IN[2:])
def test_a_worker_comes_in_this_way_and_never_shows_the_secret(
    way_in: str, secured: SecuredKafka, bundle: Path, tmp_path: Path, make_worker: MakeWorker
) -> None:
    settings = settings_of(secured.settings(way_in), tmp_path, bundle)
    traffic = Traffic(settings, seed=8)
    traffic.send(100)
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    check_exact(settings, traffic.sent)
    assert worker.terminate() == 0
    assert CANARY not in worker.output()


@pytest.mark.parametrize("way_in", WAYS_IN)
def test_tools_come_in_this_way_and_never_log_the_secret(
    way_in: str, secured: SecuredKafka, tmp_path: Path, lurm: Lurm, caplog: pytest.LogCaptureFixture
) -> None:
    kafka = secured.settings(way_in)
    settings = fresh_settings(kafka.brokers, kafka=kafka)
    (tmp_path / "event.jsonl").write_text('{"user_id": "ann", "item_id": "item-1", "ts": 1728000000000}')
    caplog.set_level(logging.DEBUG)
    for command in (["topics", "create"], ["produce", tmp_path / "event.jsonl"], ["lag"]):
        code, out, err = lurm(settings, *command)
        assert code == 0, err
        assert CANARY not in out + err
    assert len(caplog.records) > 100
    assert CANARY not in caplog.text


def test_a_wrong_password_ca_or_file_is_one_line_without_the_secret(
    secured: SecuredKafka, bundle: Path, tmp_path: Path, make_worker: MakeWorker, lurm: Lurm
) -> None:
    good = settings_of(secured.settings(), tmp_path, bundle)
    (tmp_path / "stale").write_text(f"{CANARY}.not.valid")
    (tmp_path / "empty").write_text("\n")
    other_ca = secured.folder / "other-ca.pem"
    for exit_code, message, kafka in (
        (1, "the broker refused our login.*sasl_username=lurm", secured.settings(sasl_password=f"{CANARY}-wrong")),
        (1, "the broker refused our login", secured.settings("PLAIN", sasl_password=f"{CANARY}-wrong")),
        (1, "the broker refused our login", secured.settings("OAUTHBEARER", oauth_token_file=tmp_path / "stale")),
        (1, "no trusted TLS connection.*kafka.ssl_ca_file=.*other-ca.pem", secured.settings(ssl_ca_file=other_ca)),
        (2, "cannot use the certificates to trust: .*ssl_ca_file", secured.settings(ssl_ca_file=tmp_path / "none")),
        (2, "cannot use the token", secured.settings("OAUTHBEARER", oauth_token_file=tmp_path / "empty")),
        (2, "cannot use our certificate", secured.settings("certificate", ssl_key_password=f"{CANARY}-wrong")),
        (2, "cannot use our certificate", secured.settings("certificate", ssl_key_password="")),
    ):
        settings = good.model_copy(update={"kafka": kafka})
        found, out, err = lurm(settings, "topics", "check")
        assert (found, out, err.count("\n")) == (exit_code, "", 1), err
        assert re.search(message, err), err
        assert CANARY not in err
    wrong = {"kafka": secured.settings(sasl_password=f"{CANARY}-wrong"), "worker": Worker()}
    worker = make_worker(good.model_copy(update=wrong))
    assert "the broker refused our login" in refusal(worker, 1)


def test_a_token_is_read_again_at_every_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    tokens = TokenFile(file)
    assert asyncio.run(tokens.token()) == "first"
    file.write_text("second\n")
    assert asyncio.run(tokens.token()) == "second"
