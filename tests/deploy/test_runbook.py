"""The runbook names commands, settings and metrics that exist."""

import re
from pathlib import Path

from stream.cli import COMMANDS
from stream.commands.metrics import entries
from stream.kafka.lag import LagMetrics
from stream.metrics import WorkerMetrics
from stream.settings import reference

TEXT = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")


def test_every_command_exists() -> None:
    named = set(re.findall(r"(?:^|`)lurm (\w+)", TEXT, re.MULTILINE))
    assert {"lag", "inspect", "verify", "exporter"} <= named
    assert named <= set(COMMANDS)


def test_every_setting_exists() -> None:
    leaves = list(reference())
    assert set(re.findall(r"LURM_\w+", TEXT)) <= {leaf.variable for leaf in leaves}
    sections = {leaf.name.partition(".")[0] for leaf in leaves}
    dotted = {name for name in re.findall(r"`([a-z]+\.[a-z_]+)`", TEXT) if name.partition(".")[0] in sections}
    assert dotted
    assert dotted <= {leaf.name for leaf in leaves}


def test_every_metric_exists() -> None:
    registries = (WorkerMetrics().registry, LagMetrics("app").registry)
    known = {entry.name for registry in registries for entry in entries(registry)}
    assert set(re.findall(r"\blurm_[a-z_]+", TEXT)) <= known


def test_every_line_of_a_log_exists() -> None:
    lines = set(re.findall(r"`([a-z ]+:)(?: \.\.\.)?`", TEXT))
    assert {"assigned:", "the worker ends:"} <= lines
    code = "".join(file.read_text(encoding="utf-8") for file in (Path(__file__).parents[2] / "stream").rglob("*.py"))
    assert {line for line in lines if f'"{line}' not in code} == set()
