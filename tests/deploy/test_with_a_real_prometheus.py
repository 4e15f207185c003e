"""Every expression of dashboard and rules returns data of a real worker, and alerts fire when they should."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from state.periods import MS_PER_DAY
from stream.commands import metrics as metrics_page
from stream.kafka.lag import LagMetrics
from stream.metrics import LABEL_VALUES, WorkerMetrics
from stream.records.partitioners import partitions_of
from stream.settings import Worker
from stream.trial.embedded_broker import free_ports
from tests.brokers import Broker, producer
from tests.conftest import KINDS, NO_KAFKA
from tests.deploy.kafka_tools import write_tools
from tests.deploy.scene import RULES, Scene, scene
from tests.ledgers import lose_one
from tests.plain import PlainEvent
from tests.workers import FIRST_DAY, WorkerProcess, delete_records, second, tiny_bundle, value_of, wait_until

DASHBOARD = RULES.parents[1] / "grafana" / "lurm.json"
_SELECTOR = re.compile(r"\b((?:job:)?lurm_\w+(?::\w+)*|up)\b(\{[^}]*\})?")
# An alert's expression is empty while all is well; those that the load here is meant to fire:
MEANT_TO_FIRE = {"LurmDeadLetters", "LurmUnknownItems"}
# The disk that tests run on is not ours.
OF_THE_MACHINE = {"LurmDiskFull", "LurmDiskFilling"}


@pytest.fixture(scope="module")
def running(
    prometheus_tools: None, session_brokers: dict[str, Broker], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with scene(session_brokers[KINDS[-1]].start(), tmp_path_factory.mktemp("scene")) as made:
        yield made


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def dashboard_expressions(running: Scene) -> dict[str, str]:
    """By panel and query, with the variables set as Grafana does."""
    assert running.settings.metrics.port
    values = {
        "$__rate_interval": "10s",
        "$instance": f"127.0.0.1:{running.settings.metrics.port}",
        "$partition": "(0|1)",
        "$app": running.settings.app.id,
    }
    found = {}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for name, value in values.items():
                expr = expr.replace(name, value)
            assert "$" not in expr
            found[f"{panel['title']} {target['refId']}"] = expr
    return found


def has_data(running: Scene, expr: str) -> bool:
    """Some sample is a number."""
    return any(sample["value"][1] != "NaN" for sample in running.query(expr))


def test_every_expression_of_the_dashboard_returns_data(running: Scene) -> None:
    expressions = dashboard_expressions(running)
    assert len(expressions) > 40

    def empty() -> dict[str, str]:
        return {name: expr for name, expr in expressions.items() if not has_data(running, expr)}

    # A rate over ten seconds is empty while a busy machine keeps the worker from its next batch.
    wait_until(lambda: not empty(), explain=empty)


def test_every_variable_of_the_dashboard_has_values(running: Scene) -> None:
    variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    values: dict[str, set[str]] = {}
    for each in variables[1:]:
        query = each["query"]
        for name, chosen in values.items():
            query = query.replace(f"${name}", "|".join(re.escape(value).replace("\\", "\\\\") for value in chosen))
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
        values[each["name"]] = {sample["metric"][label] for sample in running.query(series)}
    worker = f"127.0.0.1:{running.settings.metrics.port}"
    assert values == {"app": {running.settings.app.id}, "instance": {worker}, "partition": {"0", "1"}}


def test_every_selector_of_the_rules_has_series_and_recorded_rules_have_values(running: Scene) -> None:
    for rule in rules():
        selectors = {name + labels for name, labels in _SELECTOR.findall(rule["expr"])}
        assert selectors, rule
        assert not {selector for selector in selectors if not running.query(selector)}, rule
        if "record" in rule:
            assert has_data(running, rule["expr"]), rule
            wait_until(partial(has_data, running, rule["record"]), explain=partial(str, rule))


def test_no_alert_is_raised_by_a_worker_that_is_well(running: Scene) -> None:
    """With the windows and thresholds of the file, not the shortened ones, but without what it waits for."""

    def raised() -> set[str]:
        return {rule["alert"] for rule in rules() if "alert" in rule and running.query(rule["expr"])} - OF_THE_MACHINE

    # Between the first two batches of a partition on a busy machine it looks as if nothing was ever committed.
    wait_until(lambda: raised() == MEANT_TO_FIRE, explain=raised)


def test_every_series_that_is_served_stands_in_the_table_with_its_labels(running: Scene) -> None:
    entries = [*metrics_page.entries(WorkerMetrics().registry), *metrics_page.entries(LagMetrics("app").registry)]
    labels = {entry.name: set(re.sub(r" \(.*?\)", "", entry.labels).split(", ")) - {""} for entry in entries}
    served = [sample["metric"] for sample in running.query('{job=~"lurm|lurm-exporter",__name__=~"lurm_.*"}')]
    assert len({each["__name__"] for each in served}) > len(labels)
    for each in served:
        name = each["__name__"] if each["__name__"] in labels else re.sub("_(bucket|sum|count)$", "", each["__name__"])
        assert set(each) - {"__name__", "job", "instance", "le"} == labels[name], each
        for label, values in LABEL_VALUES.get(name.removesuffix("_total"), {}).items():
            assert each[label] in values, each


def test_events_that_are_none_and_items_that_are_new_are_told(running: Scene) -> None:
    for alert in MEANT_TO_FIRE:
        running.wait_firing(alert)


def test_a_record_that_is_none_of_ours_in_the_control_topic_is_told(running: Scene) -> None:
    running.worker.ready()
    with producer(running.settings) as client:
        client.send(running.settings.control_topic, b"{", partition=0)
        client.flush()
    running.wait_firing("LurmForeignControlRecords")
    assert "not records of ours" in running.worker.output()


def test_a_producer_with_another_partitioner_is_told(running: Scene) -> None:
    running.worker.ready()
    users = [b"misplaced-%d" % k for k in range(20)]
    homes = partitions_of(users, 2, "crc32").tolist()
    with producer(running.settings) as client:
        for user, home in zip(users, homes, strict=True):
            event = PlainEvent(user, 1, FIRST_DAY * MS_PER_DAY)
            client.send(running.settings.topics.events, value_of(event), user, partition=home)
        client.flush()
    running.wait_firing("LurmUsersMisplaced")
    assert "placed_by=" in running.worker.output()
    running.wait_over("LurmUsersMisplaced")


@pytest.mark.skipif("kafka" not in KINDS, reason=NO_KAFKA)
def test_a_transaction_that_a_producer_leaves_open_is_told_although_nobody_is_behind(running: Scene) -> None:
    with producer(running.settings, "never-ends") as client:
        client.begin_transaction()
        client.send(running.settings.topics.events, b"{", b"ann", partition=0).get(30)
        running.wait_firing("LurmOpenTransaction")
        assert "Ongoing" in said(running, "kafka-transactions.sh", "list")
        client.abort_transaction()
    running.wait_over("LurmOpenTransaction")


def test_a_worker_with_another_model_mixes_them(running: Scene) -> None:
    running.worker.ready()
    tiny_bundle(model_seed=1).save(running.folder / "other")
    other = second(running.settings)
    model = other.model.model_copy(update={"bundle": running.folder / "other"})
    metrics = other.metrics.model_copy(update={"port": free_ports(1)[0]})
    # Without a name of its own it leaves at once.
    other = other.model_copy(update={"model": model, "metrics": metrics, "worker": Worker()})
    with WorkerProcess(other, running.folder / "other.log") as worker:
        worker.ready()
        running.scrape(running.settings, other)
        running.wait_firing("LurmMixedModels")
        assert worker.terminate() == 0, worker.output()
    running.scrape(running.settings)
    running.wait_over("LurmMixedModels")


def test_a_dead_worker_is_missed_and_what_it_left_undone_is_told(running: Scene) -> None:
    """A killed worker, a group that stands still, events that retention takes; the ledger stays broken."""
    running.worker.ready()
    assert "LurmLedgerBroken" not in {alert for alert, _ in running.firing()}
    running.worker.kill()
    for alert in ("LurmWorkerDown", "LurmGroupStuck", "LurmLagGrowing"):
        running.wait_firing(alert)
    if KINDS[-1] == "kafka":
        group = f"--describe --group {running.settings.app.id} --state"
        wait_until(lambda: " Empty " in said(running, "kafka-consumer-groups.sh", group))
    lose_one(running.settings, partition=1)
    delete_records(running.settings, running.settings.topics.events)
    kafka = running.settings.kafka.model_copy(update={"data_loss": "accept"})
    running.worker.settings = running.settings.model_copy(update={"kafka": kafka})
    # There is a record to replay, and that takes its time.
    running.worker.start("recovery.replayed=5")
    running.wait_firing("LurmRecoverySlow")
    running.worker.ready()
    running.wait_firing("LurmWorkerExits", how="killed")
    running.wait_firing("LurmEventsLost")
    assert "retention deleted unread events" in running.worker.output()
    running.wait_firing("LurmLedgerBroken")
    running.wait_over("LurmWorkerDown", "LurmGroupStuck", "LurmLagGrowing", "LurmRecoverySlow")


def test_a_third_end_is_told_and_users_who_wait_behind_an_encode_that_hangs(running: Scene) -> None:
    seen: set[str] = set()
    for _ in range(2):
        running.worker.ready()
        wait_until(partial(is_newly_started, running, seen), explain=running.worker.output)
        running.worker.kill()
    running.worker.start("encode.started:5=8")
    running.wait_firing("LurmEncodingBehind")
    running.wait_firing("LurmWorkerRestarts")
    running.wait_over("LurmEncodingBehind")


def test_a_broker_that_hangs_stops_the_commits_blinds_the_exporter_and_annoys_the_client(running: Scene) -> None:
    alerts = ("LurmNoCommit", "LurmExporterBlind", "LurmClientErrors")
    try:
        wait_until(partial(is_halted_within_a_batch, running), explain=running.worker.output)
        for alert in alerts:
            running.wait_firing(alert)
        assert "ERROR aiokafka" in running.worker.output()
    finally:
        os.kill(running.broker.pid, signal.SIGCONT)
    running.wait_over(*alerts)


def is_halted_within_a_batch(running: Scene) -> bool:
    """Halt the broker, and let it go on when nothing was under way."""
    os.kill(running.broker.pid, signal.SIGSTOP)
    time.sleep(3)
    if running.query("min_over_time(lurm_consumer_lag_events[2s]) > 0"):
        return True
    os.kill(running.broker.pid, signal.SIGCONT)
    return False


def is_newly_started(running: Scene, seen: set[str]) -> bool:
    """Prometheus has another start time of the worker than those seen, to which it is added."""
    new = {sample["value"][1] for sample in running.query("lurm_process_start_time_seconds")} - seen
    seen |= new
    return bool(new)


def said(running: Scene, tool: str, options: str) -> str:
    """What a tool of Kafka's prints, called as the runbook does."""
    tools = running.folder / "tools"
    if not tools.exists():
        write_tools(tools)
    command: list[str | Path] = [tools / tool, "--bootstrap-server", running.settings.kafka.brokers, *options.split()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
