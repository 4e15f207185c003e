"""What each part of the model is worth: one thing changed at a time, on Ta-Feng or events of one's own.

python -m tests.bench ablation --only 'base;halves only' --events purchases.jsonl
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dct

from lurm_model.bundle import Bundle
from lurm_model.evaluation.evaluate import Questions, encode_events, item_interests
from lurm_model.evaluation.report import Report
from lurm_model.evaluation.tasks import TA_FENG_CUT_MS, default_cut, event_tasks, ta_feng_tasks
from lurm_model.events import Events, day_rows
from lurm_model.files.datasets import load_events, load_labels
from lurm_model.files.public_data import ta_feng
from lurm_model.inference.encoder import choose_device
from lurm_model.interests.codebook import Codebook
from lurm_model.progress import silent
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from lurm_model.training.learning import LearnOptions, learn
from lurm_model.training.objective import WEIGHTS, Weights
from lurm_model.training.train import TrainOptions, make_codebook, start_smen
from state.periods import day_of
from stream.commands.downloads import downloads
from tests.bench.machine import describe


def _as_it_is(smen: Smen) -> None:
    del smen


def _random_interests(smen: Smen) -> None:
    """Forget the centroids."""
    with torch.no_grad():
        smen.anchors.interests.copy_(torch.nn.functional.normalize(torch.randn_like(smen.anchors.interests), dim=1))


def _no_activity(smen: Smen) -> None:
    """Blind the recurrence to everything but the bag's direction, for good."""
    for name, weight in smen.time.named_parameters():
        if name.endswith("weight_ih_l0"):
            seen = torch.ones_like(weight)
            seen[:, smen.config.d_anchor :] = 0
            with torch.no_grad():
                weight.mul_(seen)
            weight.register_hook(seen.mul)


OPTIONS = TrainOptions()


@dataclass(frozen=True, slots=True)
class Variant:
    """What is changed: the configuration, the codebook, the start, the objective, what of the result is read.

    ``trained_share`` is of the time before the cut: what a bundle is worth when it has grown old. ``read`` is which of
    the parts that the readout mixed, condensed states first.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    codebook: TrainOptions = OPTIONS
    start: Callable[[Smen], None] = _as_it_is
    weights: Weights = WEIGHTS
    epochs: int | None = None
    seed: int = 0
    trained_share: float = 1.0
    read: tuple[int | None, int | None] = (None, None)


CONDENSED = SmenConfig(1, 1, 0).n_condensed
VARIANTS = {
    "base": Variant(),
    "base, another seed": Variant(seed=1),
    "base, a third seed": Variant(seed=2),
    "sums only, read from base": Variant(read=(CONDENSED, None)),
    "recurrent only, read from base": Variant(read=(None, CONDENSED)),
    "start, no training": Variant(epochs=0),
    "random interest vectors": Variant(start=_random_interests),
    "no activity features": Variant(start=_no_activity),
    "halves only": Variant(weights=Weights(future_items=0, future_volume=0)),
    "no item prediction": Variant(weights=Weights(items=0, future_items=0)),
    "contrast only": Variant(weights=Weights(items=0, future_items=0, future_volume=0)),
    "no contrast": Variant(weights=Weights(contrast=0)),
    "no sum fades": Variant({"half_lives": ()}),
    "2 recurrent": Variant({"n_recurrent": 2}),
    "6 recurrent": Variant({"n_recurrent": 6}),
    "M=5": Variant({"n_vectors": 5}),
    "M=20": Variant({"n_vectors": 20, "n_recurrent": 8, "n_condensed": 2}),
    "tau=0.3": Variant({"tau": 0.3}),
    "H=32": Variant(codebook=TrainOptions(d_item=32)),
    "scales day": Variant({"scales": ("day",)}),
    "scales month": Variant({"scales": ("month",)}),
    "scales day, week, month": Variant({"scales": ("day", "week", "month")}),
    "1,000 interests": Variant(codebook=TrainOptions(n_interests=1_000)),
    "3,000 interests": Variant(codebook=TrainOptions(n_interests=3_000)),
    # As many clusters as there are different item vectors.
    "items as interests": Variant(codebook=TrainOptions(n_interests=1_000_000)),
    "epochs=6": Variant(epochs=6),
    "trained on the first third of the time": Variant(trained_share=1 / 3),
}


def main(given: Sequence[str]) -> int:
    """Train and probe what is asked for."""
    parser = ArgumentParser(prog="python -m tests.bench ablation", description=__doc__)
    parser.add_argument("--only", help=f"some of these, separated by ';': {'; '.join(VARIANTS)}")
    parser.add_argument("--events", type=Path, action="append", help="instead of Ta-Feng")
    parser.add_argument("--users", type=Path, help="labels of their users")
    parser.add_argument("--cache", type=Path, default=downloads(), help="where Ta-Feng stays (~/.cache/lurm-stream)")
    parser.add_argument("--seeds", type=int, default=3, help="splits (3)")
    print(describe())
    run(parser.parse_args(given))
    return 0


def run(arguments: Namespace) -> None:
    """Train and probe every variant; a line each as it is done, then the table in Markdown."""
    questions = _questions(arguments)
    names = arguments.only.split(";") if arguments.only else list(VARIANTS)
    report = Report.of_tasks(questions.n_asked)
    trained: dict[str, np.ndarray] = {}
    codebooks: dict[tuple[TrainOptions, float], Codebook] = {}
    for name in names:
        variant = VARIANTS[name]
        before, made_from = _first(questions.before, variant.trained_share), (variant.codebook, variant.trained_share)
        if made_from not in codebooks:
            codebooks[made_from] = make_codebook(before, variant.codebook, silent)[0]
        key = repr(replace(variant, read=(None, None)))
        if key not in trained:
            trained[key] = _vectors(variant, codebooks[made_from], before, questions.before)
        vectors = trained[key]
        if variant.read != (None, None):
            vectors = dct(vectors, axis=1, norm="ortho")[:, slice(*variant.read)]
        vectors = vectors.reshape(len(vectors), -1)
        report.add(name, vectors.shape[1], questions.probe(vectors))
        print(" | ".join(report.rows()[-1]), flush=True)
    print(report.to_markdown())


def _first(events: Events, share: float) -> Events:
    """The events of the first share of their time."""
    first, last = int(events.ts_ms.min()), int(events.ts_ms.max())
    return events.where(events.ts_ms <= first + share * (last - first)).compact()


def _questions(arguments: Namespace) -> Questions:
    if arguments.events is None:
        events, labels = ta_feng(arguments.cache)
        return Questions(events, ta_feng_tasks(events, labels), TA_FENG_CUT_MS, arguments.seeds)
    events = load_events(arguments.events)
    given = load_labels(arguments.users) if arguments.users else None
    cut_ms = default_cut(events)
    return Questions(events, event_tasks(events, given, cut_ms), cut_ms, arguments.seeds)


def _vectors(variant: Variant, codebook: Codebook, before: Events, all_users: Events) -> np.ndarray:
    reference_day = int(day_of(before.ts_ms).max())
    d_item = codebook.centroids.shape[1]
    plain = SmenConfig(codebook.n_interests, d_item, reference_day, d_anchor=d_item)
    config = replace(plain, **variant.config)
    smen = start_smen(config, codebook, variant.seed)
    variant.start(smen)
    blank = Bundle.build(config, codebook, {}, {}, {})
    interest = item_interests(blank, before)
    rows = day_rows(before.user, before.ts_ms, interest[before.item], before.weight)
    options = LearnOptions(variant.epochs, variant.seed, device=choose_device("auto"), weights=variant.weights)
    learn(smen, rows, codebook.idf, options, silent)
    weights = {name: tensor.detach().numpy() for name, tensor in smen.state_dict().items()}
    return encode_events(Bundle.build(config, codebook, weights, {}, {}), all_users)
