import json
from pathlib import Path

import numpy as np
import pytest

from lurm_model.evaluation.plots import Point, plot
from lurm_model.evaluation.report import Cell, Report


@pytest.fixture
def report() -> Report:
    report = Report.of_tasks({"churn": 12_034, "rare": 60})
    report.add("smen", 640, {"churn": Cell(0.75, 0.001), "rare": Cell(float("nan"), float("nan"))})
    report.add("bag", 22451, {"churn": Cell(0.66, 0.002), "rare": Cell(float("nan"), float("nan"))})
    return report


def test_a_cell_is_the_mean_over_questions_and_the_spread_over_splits() -> None:
    cell = Cell.of(np.array([[0.6, 0.8, np.nan], [0.7, 0.9, 0.5]]))
    assert cell == (0.75, 0.05)
    assert np.isnan(Cell.of(np.full((2, 1), np.nan)).auc)


def test_json_is_json_even_where_nothing_could_be_asked(report: Report) -> None:
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["tasks"]["churn"]["smen"] == {"auc": 0.75, "std": 0.001}
    assert plain["tasks"]["rare"]["bag"] == {"auc": None, "std": None}
    assert plain["sizes"] == {"smen": 640, "bag": 22451}
    assert plain["users"] == {"churn": 12034, "rare": 60}


def test_markdown_marks_the_best(report: Report) -> None:
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| model | size | churn | rare |"
    assert lines[2].startswith("| smen | 640 | **0.750 ± 0.001** |")
    assert lines[3].startswith("| bag | 22,451 | 0.660 ± 0.002 |")
    assert lines[4:] == ["", "users asked: churn 12,034, rare 60"]


def test_a_plot_has_a_panel_per_task_and_a_line_per_model(report: Report, tmp_path: Path) -> None:
    cells = {"churn": Cell(0.7, 0.01), "age": Cell(0.6, 0.01)}
    points = [Point(model, x, cells) for model in ("smen", "svd") for x in (64, 640)]
    plot(points, "numbers per user", tmp_path / "new" / "size.png")
    assert (tmp_path / "new" / "size.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "new" / "size.md").read_text().splitlines()
    assert lines[0] == "| model | numbers per user | churn | age |"
    assert lines[2] == "| smen | 64 | 0.700 ± 0.010 | 0.600 ± 0.010 |"
    assert len(lines) == 6


def test_a_task_without_any_answer_is_named_and_shown_as_none(report: Report) -> None:
    assert report.unasked() == ["rare"]
    assert report.rows()[1] == ["smen", "640", "0.750 ± 0.001", "-"]
