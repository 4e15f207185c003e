"""The exported dashboard is what the code makes, and follows Grafana's rules for sharing."""

import json
import re
import subprocess
import sys
from pathlib import Path

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
EXPORT = GRAFANA / "lurm.json"
LOCK = Path(__file__).parents[2] / "requirements.lock"


def test_the_export_is_what_the_code_makes() -> None:
    made = subprocess.run([sys.executable, GRAFANA / "dashboard.py"], capture_output=True, text=True, check=True)
    assert made.stdout == EXPORT.read_text(encoding="utf-8"), "run `make generate`"


def test_every_panel_asks_the_datasource_that_is_chosen_at_import() -> None:
    board = json.loads(EXPORT.read_text(encoding="utf-8"))
    assert [each["name"] for each in board["__inputs"]] == ["DS_PROMETHEUS"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${DS_PROMETHEUS}"}


def test_the_import_is_told_of_every_plugin_and_the_oldest_grafana() -> None:
    board = json.loads(EXPORT.read_text(encoding="utf-8"))
    needs = {(each["type"], each["id"]) for each in board["__requires"]}
    panels = {("panel", panel["type"]) for panel in board["panels"] if panel["type"] != "row"}
    assert needs == panels | {("datasource", "prometheus"), ("grafana", "grafana")}
    (grafana,) = [each["version"] for each in board["__requires"] if each["id"] == "grafana"]
    sdk = next(
        line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("grafana_foundation_sdk")
    )
    assert sdk.endswith(f"!{grafana}"), "the schema that the panels are written in"


def test_the_variables_are_a_chain_of_application_worker_and_partition() -> None:
    variables = json.loads(EXPORT.read_text(encoding="utf-8"))["templating"]["list"]
    chain = [(each["name"], re.findall(r"\$(\w+)", each["query"])) for each in variables]
    assert chain == [("DS_PROMETHEUS", []), ("app", []), ("instance", ["app"]), ("partition", ["instance"])]
    # A pattern for "all" would match the workers of other applications.
    assert not any(each.get("allValue") for each in variables)
