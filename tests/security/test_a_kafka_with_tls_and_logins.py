"""Every client of ours reaches a real Kafka with TLS in each supported way, and none tells a secret."""

import asyncio
import json
import logging
import re
import sys
import urllib.request
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer

from state.periods import MS_PER_DAY
from stream.kafka.connection import aiokafka_arguments, client_arguments
from stream.kafka.topics import create_missing
from stream.operations.scrape import fetch, value
from stream.settings import Kafka, Settings, State, Worker
from stream.soak.check import differences
from stream.soak.reference import Reference
from stream.soak.traffic import Sent
from stream.trial.worker_process import ChildProcess
from tests.brokers import fresh_settings, producer
from tests.plain import PlainEvent
from tests.secured import CANARY, WAYS_IN, SecuredKafka, token
from tests.security.conftest import Lurm
from tests.worker.conftest import MakeWorker, handed_over, refusal
from tests.workers import (
    FIRST_DAY,
    Traffic,
    bundle_with_kinds,
    check_exact,
    check_published,
    second,
    value_of,
    wait_applied,
    wait_until,
    worker_settings,
)

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


def test_new_items_are_sent_and_learned_over_scram_and_the_password_is_never_shown(
    secured: SecuredKafka, tmp_path: Path, make_worker: MakeWorker, lurm: Lurm
) -> None:
    """By a worker that runs, and by one that reads the topic before its first event."""
    bundle_with_kinds().save(tmp_path / "kinds")
    settings = settings_of(secured.settings(), tmp_path, tmp_path / "kinds")
    file, event = tmp_path / "new.jsonl", PlainEvent(b"ann", 7, FIRST_DAY * MS_PER_DAY)
    file.write_text('{"item_id": "lamp", "attributes": {"kind": "7"}}')
    worker = make_worker(settings).ready()
    code, out, err = lurm(settings, "items", "assign", file, "--send")
    assert (code, out) == (0, f"sent 1 items to {settings.topics.items}\n"), err
    wait_until(lambda: worker.metric("lurm_learned_items") == 1, explain=worker.output)
    assert worker.terminate() == 0
    said = out + err + worker.output()
    with producer(settings) as client:
        value = {"user_id": "ann", "item_id": "lamp", "ts": event.ts_ms}
        client.send(settings.topics.events, json.dumps(value).encode(), event.user)
    worker.ready()
    wait_applied(settings, worker)
    check_exact(settings, [event])
    assert CANARY not in said + worker.output()


@pytest.mark.slow
def test_standbys_snapshots_console_exporter_soak_check_and_repartition_work_over_scram(
    secured: SecuredKafka, bundle: Path, tmp_path: Path, make_worker: MakeWorker, lurm: Lurm
) -> None:
    """What the tools' test leaves out, with the other SCRAM: one life of an application, its workers killed."""
    settings = settings_of(secured.settings("SCRAM-SHA-256"), tmp_path, bundle)
    settings = settings.model_copy(update={"state": State(dir=tmp_path / "state-a", standbys=1)})
    other, out = second(settings), tmp_path / "snapshot"
    a, b = make_worker(settings).ready(), make_worker(other).ready()
    handed_over({a: 1, b: 1})
    traffic = Traffic(settings, seed=9)
    traffic.send(300)
    wait_applied(settings, a, b)
    wait_until(lambda: a.metric("lurm_partitions", role="standby") == 1)
    wait_until(lambda: a.metric("lurm_standby_lag_rows") == 0, explain=a.output)
    b.kill()
    handed_over({a: 2})
    traffic.send(200)
    wait_applied(settings, a)
    said = [lurm(settings, "snapshot", "--out", out), watched(settings, a.port, len(traffic.sent), tmp_path)]
    a.kill()
    restored = settings.model_copy(update={"state": State(dir=tmp_path / "state-c")})
    said.append(lurm(restored, "restore", "--from", out))
    c = make_worker(restored).ready()
    traffic.send(100)
    wait_applied(settings, c)
    check_exact(settings, traffic.sent)
    check_published(settings)
    assert list(differences(settings, Sent(len(traffic.sent), 0, 0, Reference(traffic.sent)))) == []
    assert c.terminate() == 0
    app = f"{settings.app.id}x"
    move = ("repartition", "--to-app", app, "--to-events", f"{app}-events", "--partitions", 3)

    def moved() -> bool:
        """Refused until the group has given up a static member."""
        said.append(lurm(settings, *move))
        return said[-1][0] == 0

    wait_until(moved, explain=lambda: said[-1])
    said = [each for each in said if "stop them, and wait" not in each[2]]
    assert [code for code, _, _ in said] == [0] * len(said), said
    assert "moved and found equal" in said[-1][1]
    assert CANARY not in str(said) + a.output() + b.output() + c.output()


def watched(settings: Settings, worker_port: int | None, n_events: int, folder: Path) -> tuple[int, str, str]:
    """How console and exporter end, and what they logged, once both have shown all that was committed."""

    def serving(*command: str) -> ChildProcess:
        log = folder / f"{command[0]}.log"
        return ChildProcess(settings, log, (sys.executable, "-m", "stream.cli", *command, "--port", "0")).start()

    worker = ("--worker", f"http://127.0.0.1:{worker_port}")
    with serving("console", *worker) as console, serving("exporter") as exporter:

        def shown() -> bool:
            found = get(f"{url_of(console)}/api/overview")
            if found["broker"]["age_s"] is None or found["broker"]["behind_records"]:
                return False
            applied = sum(each["ledger"]["applied"] for each in found["partitions"] if each["ledger"])
            users = found["held"]["recent_users"]
            return applied == n_events and any(
                get(f"{url_of(console)}/api/user/{user}")["embeddings"] for user in users
            )

        def counted() -> bool:
            samples = fetch(f"{url_of(exporter)}/metrics")
            return value(samples, "lurm_group_committed_offset") >= n_events

        for process, condition in ((console, shown), (exporter, counted)):
            wait_until(partial(url_of, process), explain=process.output)
            wait_until(condition, explain=process.output)
        return max(console.terminate(), exporter.terminate()), console.output(), exporter.output()


def url_of(process: ChildProcess) -> str:
    """Where it says that it serves; empty before."""
    found = re.search(r"address=(?:http://)?(127\.0\.0\.1:\d+)$", process.output(), re.MULTILINE)
    return f"http://{found.group(1)}" if found else ""


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


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


def test_a_client_of_either_library_connects_again_with_the_token_that_the_file_holds_then(
    secured: SecuredKafka, tmp_path: Path, lurm: Lurm
) -> None:
    """Last, for it restarts the broker, when the token of the first connections has run out."""
    file = tmp_path / "token"
    kafka = secured.settings("OAUTHBEARER", oauth_token_file=file)
    file.write_text(token())
    settings = fresh_settings(kafka.brokers, kafka=kafka)
    create_missing(settings)
    first = token(lasts_s=8)
    file.write_text(first)

    async def send_before_and_after() -> None:
        async with AIOKafkaProducer(**aiokafka_arguments(kafka)) as worker_client:
            with closing(KafkaProducer(**client_arguments(kafka))) as tool_client:
                await worker_client.send_and_wait(settings.topics.events, b"1")
                tool_client.send(settings.topics.events, b"1").get(timeout=30)
                file.write_text(token())
                secured.broker.stop()
                await asyncio.sleep(8)
                secured.broker.start()
                await worker_client.send_and_wait(settings.topics.events, b"2")
                tool_client.send(settings.topics.events, b"2").get(timeout=30)

    asyncio.run(send_before_and_after())
    file.write_text(first)
    code, _, err = lurm(settings, "topics", "check")
    assert (code, "the broker refused our login" in err) == (1, True), err
