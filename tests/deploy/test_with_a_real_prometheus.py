"""Every expression of dashboard and rules returns data of a real worker, and alerts fire when they should."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.brokers import Broker
from tests.conftest import KINDS
from tests.deploy.scene import RULES, Scene, scene
from tests.workers import wait_until

DASHBOARD = RULES.parents[1] / "grafana" / "lurm.json"
_SELECTOR = re.compile(r"\b((?:job:)?lurm_\w+(?::\w+)*|up)\b(\{[^}]*\})?")
# An alert's expression is empty while all is well; those that the load here is meant to fire:
MEANT_TO_FIRE = {"LurmDeadLetters"}
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
            wait_until(lambda name=rule["record"]: has_data(running, name), explain=lambda rule=rule: rule)


def test_no_alert_is_raised_by_a_worker_that_is_well(running: Scene) -> None:
    """With the windows and thresholds of the file, not the shortened ones."""
    raised = {rule["alert"] for rule in rules() if "alert" in rule and running.query(rule["expr"])}
    assert raised - OF_THE_MACHINE == MEANT_TO_FIRE


def test_alerts_fire_when_what_they_are_for_happens(running: Scene) -> None:
    """Last, for it kills the worker: rejected events, a dead worker, a group that stands still, and how it ended."""
    running.wait_firing("LurmDeadLetters")
    running.worker.kill()
    running.wait_firing("LurmWorkerDown")
    running.wait_firing("LurmGroupStuck")
    running.worker.ready()
    running.wait_firing("LurmWorkerExits", how="killed")
    assert "LurmLedgerBroken" not in {alert for alert, _ in running.firing()}
