"""What an evaluation found: a table of models and tasks, as data, as Markdown and as points of a plot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cell(NamedTuple):
    """Mean AUC of a task over splits, and its standard deviation; NaN where nothing could be asked, or once only."""

    auc: float
    std: float

    @classmethod
    def of(cls, aucs: NDArray[np.float64]) -> "Cell":
        """**Shapes**: aucs float[n_seeds, q]; a question that some split could not ask does not count."""
        asked = aucs[:, ~np.isnan(aucs).any(axis=0)]
        if not asked.size:
            return cls(float("nan"), float("nan"))
        means = asked.mean(axis=1)
        spread = float(means.std()) if len(means) > 1 else float("nan")
        return cls(round(float(means.mean()), 4), round(spread, 4))

    def __str__(self) -> str:
        spread = "" if np.isnan(self.std) else f" ± {self.std:.3f}"
        return f"{self.auc:.3f}{spread}" if self.is_asked else "-"

    @property
    def is_asked(self) -> bool:
        """Whether there is an answer."""
        return not np.isnan(self.auc)


@dataclass(slots=True)
class Report:
    """Every model's cells by task, how many numbers a user costs under it, and how many users a task asks."""

    tasks: dict[str, dict[str, Cell]]
    n_users: Mapping[str, int]
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_tasks(cls, n_users: Mapping[str, int]) -> "Report":
        """Nothing found yet."""
        return cls({name: {} for name in n_users}, n_users)

    def add(self, model: str, size: int, cells: dict[str, Cell]) -> None:
        """Take in a model."""
        self.sizes[model] = size
        for task, cell in cells.items():
            self.tasks[task][model] = cell

    def to_json(self) -> dict[str, object]:
        """Plain data; what could not be asked is null."""
        return {
            "tasks": {
                task: {model: _plain(cell) for model, cell in cells.items()} for task, cells in self.tasks.items()
            },
            "sizes": self.sizes,
            "users": dict(self.n_users),
        }

    def unasked(self) -> list[str]:
        """The tasks without any answer."""
        return [task for task, cells in self.tasks.items() if not any(cell.is_asked for cell in cells.values())]

    def asked(self) -> str:
        """How many users each task asks: of few, most of what differs is chance."""
        return f"users asked: {', '.join(f'{name} {n:,}' for name, n in self.n_users.items())}"

    def rows(self) -> list[list[str]]:
        """The table as texts, its head first."""
        head = ["model", "size", *self.tasks]
        body = [
            [model, f"{size:,}", *(str(cells[model]) for cells in self.tasks.values())]
            for model, size in self.sizes.items()
        ]
        return [head, *body]

    def to_markdown(self) -> str:
        """The table in Markdown, the best of every task in bold."""
        head, *body = self.rows()
        best = [max((cell.auc for cell in cells.values()), default=0.0) for cells in self.tasks.values()]
        for row in body:
            for column, cells in enumerate(self.tasks.values()):
                if cells[row[0]].auc == best[column]:
                    row[column + 2] = f"**{row[column + 2]}**"
        table = "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))
        return f"{table}\n{self.asked()}\n"


def _plain(cell: Cell) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in cell._asdict().items()}
