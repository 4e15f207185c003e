"""The alert rules say what they should, and lead to a runbook that exists."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "lurm.rules.yaml"
TESTS = DEPLOY / "prometheus" / "lurm.test.yaml"


def alerts() -> list[dict]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yaml"), ("test", "rules", TESTS.name)])
def test_promtool_passes(arguments: tuple[str, ...], prometheus_tools: None) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    fires: dict[str, set[bool]] = {alert["alert"]: set() for alert in alerts()}
    for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            fires[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {name for name, both in fires.items() if both != {True, False}} == set()


def test_every_alert_has_a_severity_a_summary_and_a_section_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (\w+)$", (DEPLOY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"deploy/README.md#{alert['alert'].lower()}"
        assert alert["alert"] in headings


def test_every_alert_was_tried() -> None:
    tried = (DEPLOY / "README.md").read_text(encoding="utf-8").partition("## Tried\n")[2]
    named = re.findall(r"\bLurm[A-Z]\w+", "".join(re.findall(r"^\|([^|]*)\|", tried, re.MULTILINE)))
    assert sorted(named) == sorted(alert["alert"] for alert in alerts())


def test_every_alert_that_a_metric_names_exists() -> None:
    named = set(re.findall(r"\bLurm[A-Z]\w+", (DEPLOY / "METRICS.md").read_text(encoding="utf-8")))
    assert named
    assert named <= {alert["alert"] for alert in alerts()}
