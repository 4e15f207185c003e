"""Pictures of an evaluation, a panel per task, and their figures in a table; matplotlib, an extra, is imported here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lurm_model.errors import PlotsUnavailable
from lurm_model.evaluation.report import Cell

PANEL_INCHES = (4.0, 3.2)


class Point(NamedTuple):
    """A model's cells by task at a place of the x axis."""

    model: str
    x: int
    cells: dict[str, Cell]


def plot(points: Sequence[Point], x_label: str, path: Path) -> None:
    """AUC of every task against x, a line per model with its spread; the same as a table beside it (``.md``).

    **Raises** `PlotsUnavailable` without matplotlib: say how to get it.
    """
    figure = _figure(len(points[0].cells))
    for panel, task in zip(figure.axes, points[0].cells, strict=True):
        for model in dict.fromkeys(point.model for point in points):
            line = sorted((point.x, *point.cells[task]) for point in points if point.model == model)
            x, auc, std = zip(*line, strict=True)
            panel.errorbar(x, auc, yerr=std, label=model, marker="o", capsize=3)
        panel.set(title=task, xlabel=x_label, xscale="log")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("AUC")
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    path.with_suffix(".md").write_text(to_markdown(points, x_label), encoding="utf-8")


def to_markdown(points: Sequence[Point], x_label: str) -> str:
    """The points as a table in Markdown."""
    rows = [[point.model, f"{point.x:,}", *(str(cell) for cell in point.cells.values())] for point in points]
    head = ["model", x_label, *points[0].cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def require() -> None:
    """**Raises** `PlotsUnavailable` before hours of work, not after."""
    _figure(1)


def _figure(n_panels: int) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise PlotsUnavailable("plots need matplotlib: pip install 'lurm-stream[plot]'") from error
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * n_panels, height), layout="constrained")
    for place in range(n_panels):
        figure.add_subplot(1, n_panels, place + 1)
    return figure
