"""The defaults on synthetic populations of many sizes: is SMEN at or above what one would build by hand, and in time?

python -m tests.bench robustness --only weeks
"""

import time
from argparse import ArgumentParser
from collections.abc import Sequence

from lurm_model.evaluation.evaluate import Questions, models
from lurm_model.evaluation.report import Cell, Report
from lurm_model.evaluation.tasks import default_cut, event_tasks
from lurm_model.progress import silent
from lurm_model.training.train import train
from tests.bench.machine import describe
from tests.bench.population import Size, population

SIZES = {
    "weeks": Size(1_000, 1_000, 21, 12),
    "year": Size(5_000, 3_000, 365, 40),
    "years": Size(30_000, 20_000, 730, 12),
}
PEERS = ("bag", "svd_64", "svd_640", "mean_pooling", "mean_pooling_rf")


def main(given: Sequence[str]) -> int:
    """Train and probe each population; 1 when SMEN is below the best of its peers by more than chance."""
    parser = ArgumentParser(prog="python -m tests.bench robustness", description=__doc__)
    parser.add_argument("--only", help=f"some of these, separated by ',': {', '.join(SIZES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the population (0)")
    arguments = parser.parse_args(given)
    print(describe())
    names = arguments.only.split(",") if arguments.only else list(SIZES)
    below = [line for name in names for line in run(name, SIZES[name], arguments.seed)]
    print("\n".join(below) or "nowhere below the best peer")
    return int(bool(below))


def run(name: str, size: Size, seed: int) -> list[str]:
    """Print a population's table; where SMEN is below."""
    events, labels = population(size, seed)
    cut_ms = default_cut(events)
    questions = Questions(events, event_tasks(events, labels, cut_ms), cut_ms)
    before, started = questions.before, time.process_time()
    bundle = train(before)
    seconds, epochs = time.process_time() - started, len(bundle.manifest["metrics"]["loss"])
    print(
        f"\n{name}: {size}, {len(before):,} events to learn from, {epochs} epochs, {seconds:.0f} s of processor time\n"
    )
    made, report = models(bundle, questions, silent), Report.of_tasks(questions.n_asked)
    for model in ("smen", *PEERS):
        features = made[model]()
        report.add(model, features.shape[1], questions.probe(features))
    print(report.to_markdown(), flush=True)
    return [f"{name}: {task} {_said(cells)}" for task, cells in report.tasks.items() if _is_below(cells)]


def _best(cells: dict[str, Cell]) -> str:
    return max(PEERS, key=lambda model: cells[model].auc)


def _is_below(cells: dict[str, Cell]) -> bool:
    """The spread over splits is shared by all models, so this is lenient."""
    best = cells[_best(cells)]
    return not cells["smen"].auc >= best.auc - max(best.std, 0.003)


def _said(cells: dict[str, Cell]) -> str:
    return f"smen={cells['smen']} {_best(cells)}={cells[_best(cells)]}"
