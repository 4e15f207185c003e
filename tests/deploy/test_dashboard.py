"""The exported dashboard is what the code makes, and follows Grafana's rules for sharing."""

import json
import re
import subprocess
import sys
from pathlib import Path

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
EXPORT = GRAFANA / "lurm.json"


def test_the_export_is_what_the_code_makes() -> None:
    made = subprocess.run([sys.executable, GRAFANA / "dashboard.py"], capture_output=True, text=True, check=True)
    assert made.stdout == EXPORT.read_text(encoding="utf-8"), "run `make generate`"


def test_every_panel_asks_the_datasource_that_is_chosen_at_import() -> None:
    board = json.loads(EXPORT.read_text(encoding="utf-8"))
    assert [each["name"] for each in board["__inputs"]] == ["DS_PROMETHEUS"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${DS_PROMETHEUS}"}


def test_the_variables_are_a_chain_of_application_worker_and_partition() -> None:
    variables = json.loads(EXPORT.read_text(encoding="utf-8"))["templating"]["list"]
    chain = [(each["name"], re.findall(r"\$(\w+)", each["query"])) for each in variables]
    assert chain == [("DS_PROMETHEUS", []), ("app", []), ("instance", ["app"]), ("partition", ["instance"])]
    # A pattern for "all" would match the workers of other applications.
    assert not any(each.get("allValue") for each in variables)
