"""Frozen embeddings under a light classifier, side by side with the baselines: same users, same splits, same probe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.errors import TrainingDataError
from lurm_model.evaluation.baselines import baseline_features, item_vectors, mean_pooling_rf, raw_bag, sized_features
from lurm_model.evaluation.coles import coles_features
from lurm_model.evaluation.plots import Point
from lurm_model.evaluation.probe import USERS_MIN, probe_auc, probe_aucs
from lurm_model.evaluation.report import Cell, Report
from lurm_model.evaluation.tasks import EVENTS_MIN, Task, eligible
from lurm_model.events import Events, date_of, day_rows
from lurm_model.inference.encoder import Encoder, choose_device
from lurm_model.interests.weighting import Float32
from lurm_model.progress import Progress, silent
from lurm_model.smen.config import SmenConfig
from lurm_model.training.learning import LearnOptions
from lurm_model.training.train import train_smen
from state.history import resolve
from state.periods import MS_PER_DAY, Int64, day_of

__all__ = ["Questions", "encode_events", "evaluate", "item_interests", "probe_auc"]

# How much of the life before the cut an embedding sees, in days; 0 is all of it.
HISTORY_DAYS = (7, 14, 28, 56, 112, 364, 0)
VECTORS = (2, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of the users of these events. **Units**: features see only what lies before cut_ms.

    **Raises** `TrainingDataError` when too few have enough before it to be asked about.
    """

    events: Events
    tasks: Mapping[str, Task]
    cut_ms: int
    n_seeds: int = 3

    def __post_init__(self) -> None:
        able = len(eligible(self.events, self.cut_ms))
        if able < USERS_MIN:
            need = f"need {USERS_MIN} with {EVENTS_MIN} events before {date_of(self.cut_ms)}, when the future begins"
            facts = f"users={len(self.events.users)} with_enough={able} events_before={len(self.before)}"
            raise TrainingDataError(
                f"too few users to ask about, {need}; leave out wrong times, or take in a longer time: {facts} "
                f"{self.events.span}"
            )

    @property
    def before(self) -> Events:
        """What the features may see."""
        return self.events.before(self.cut_ms)

    @property
    def n_asked(self) -> dict[str, int]:
        """How many users each task asks."""
        users = eligible(self.events, self.cut_ms)
        return {name: int(task.known[users].sum()) for name, task in self.tasks.items()}

    def probe(self, features: Any) -> dict[str, Cell]:
        """Mean AUC and its spread over splits, by task."""
        users = eligible(self.events, self.cut_ms)
        cells: dict[str, Cell] = {}
        for names in self._same_users(users):
            chosen = users[self.tasks[names[0]].known[users]]
            labels = [self.tasks[name].labels[chosen] for name in names]
            owner = np.repeat(np.arange(len(names)), [label.shape[1] for label in labels])
            asked, rows = np.concatenate(labels, axis=1), features[chosen]
            aucs = np.stack([probe_aucs(rows, asked, owner, seed) for seed in range(self.n_seeds)])
            cells |= {name: Cell.of(aucs[:, owner == place]) for place, name in enumerate(names)}
        return {name: cells[name] for name in self.tasks}

    def _same_users(self, users: Int64) -> list[list[str]]:
        """The tasks by whom they are asked of: their questions are answered together."""
        groups: dict[bytes, list[str]] = {}
        for name, task in self.tasks.items():
            groups.setdefault(task.known[users].tobytes(), []).append(name)
        return list(groups.values())


def encode_events(bundle: Bundle, events: Events, device: str = "auto") -> Float32:
    """The embeddings of all users from these events, float32[n_users, M, H]."""
    interest = item_interests(bundle, events)
    rows = day_rows(events.user, events.ts_ms, interest[events.item], events.weight)
    n_users = len(events.users)
    return Encoder(bundle, device).encode(resolve(rows, bundle.scales, n_users), n_users)


def item_interests(bundle: Bundle, events: Events) -> Int64:
    """Every item's interest, int64[n_items]: by the codebook, else from its attributes."""
    book = bundle.codebook
    found = np.array([book.interest_of.get(item, -1) for item in events.items], np.int64)
    new = np.flatnonzero(found < 0)
    found[new] = book.assign_many([events.item_attributes[item] for item in new.tolist()])
    return found


def evaluate(bundle: Bundle, questions: Questions, progress: Progress = silent, device: str = "auto") -> Report:
    """Every model's answers to every task; SMEN encodes, and learns where it must, on ``device``."""
    made = models(bundle, questions, progress, device)
    report = Report.of_tasks(questions.n_asked)
    for done, (name, make) in enumerate(made.items()):
        progress("probes", done, len(made))
        features = make()
        report.add(name, features.shape[1], questions.probe(features))
    progress("probes", len(made), len(made))
    return report


def models(
    bundle: Bundle, questions: Questions, progress: Progress, device: str = "auto"
) -> dict[str, Callable[[], Any]]:
    """How to make every model's features, by name: one row per user."""
    before = questions.before
    progress("baselines", 0, 1)
    interest = item_interests(bundle, before)
    width = bundle.config.n_vectors * bundle.config.d_anchor
    baselines = baseline_features(before, interest, questions.cut_ms, width, seed=0)
    progress("baselines", 1, 1)
    start = np.append(bundle.codebook.centroids, np.zeros((1, bundle.config.d_item), np.float32), axis=0)
    # One anchor for each of the two paths: the multi-anchor module taken away.
    single = replace(bundle.config, n_vectors=2, n_recurrent=1, n_condensed=1)
    return {
        "smen": lambda: _flat(bundle, before, device),
        "smen_m1": lambda: _flat(_trained_anew(bundle, before, single, progress, device), before, device),
        "coles": lambda: coles_features(before, interest, start, 0, progress),
        **baselines,
    }


def by_size(
    bundle: Bundle,
    questions: Questions,
    progress: Progress = silent,
    sizes: Sequence[int] = VECTORS,
    device: str = "auto",
) -> Iterator[Point]:
    """Models of several sizes; SMEN is trained anew for every number of vectors."""
    before, d_anchor = questions.before, bundle.config.d_anchor
    bag = raw_bag(before, before.item, len(before.items))
    baselines = sized_features(before, bag, item_vectors(before, seed=0), d_anchor * max(sizes), seed=0)
    for done, n_vectors in enumerate(sizes):
        progress("by size", done, len(sizes))
        config = _resized(bundle.config, n_vectors)
        model = bundle if config == bundle.config else _trained_anew(bundle, before, config, progress, device)
        width = n_vectors * d_anchor
        yield Point("smen", width, questions.probe(_flat(model, before, device)))
        for name, make in baselines.items():
            features = make(width)
            yield Point(name, features.shape[1], questions.probe(features))
    progress("by size", len(sizes), len(sizes))


def by_history(
    bundle: Bundle, questions: Questions, progress: Progress = silent, device: str = "auto"
) -> Iterator[Point]:
    """SMEN and its peers when they see no more than the last days before the cut: what a whole life is worth."""
    before = questions.before
    interest, vectors = item_interests(bundle, before), item_vectors(before, seed=0)
    life_days = int(day_of(np.array([questions.cut_ms - 1]))[0] - day_of(before.ts_ms[:1])[0]) + 1
    spans = sorted({min(days or life_days, life_days) for days in HISTORY_DAYS})
    for done, days in enumerate(spans):
        progress("by history", done, len(spans))
        seen = before.where(before.ts_ms >= questions.cut_ms - days * MS_PER_DAY)
        yield Point("smen", days, questions.probe(_flat(bundle, seen, device)))
        yield Point("bag", days, questions.probe(raw_bag(seen, interest[seen.item], bundle.config.n_interests)))
        yield Point("mean_pooling_rf", days, questions.probe(mean_pooling_rf(seen, vectors, questions.cut_ms)))
    progress("by history", len(spans), len(spans))


def _flat(bundle: Bundle, events: Events, device: str) -> Float32:
    return encode_events(bundle, events, device).reshape(len(events.users), -1)


def _resized(config: SmenConfig, n_vectors: int) -> SmenConfig:
    """As many vectors, of which about the same share is made of recurrent states, each of as many anchors."""
    n_condensed = max(1, round(n_vectors * config.n_condensed / config.n_vectors))
    n_recurrent = config.n_recurrent * n_condensed // config.n_condensed
    return replace(config, n_vectors=n_vectors, n_recurrent=n_recurrent, n_condensed=n_condensed)


def _trained_anew(bundle: Bundle, events: Events, config: SmenConfig, progress: Progress, device: str) -> Bundle:
    """The same codebook under a SMEN of this configuration, trained on these events."""
    interest = item_interests(bundle, events)
    rows = day_rows(events.user, events.ts_ms, interest[events.item], events.weight)
    options = LearnOptions(None, seed=0, device=choose_device(device))
    weights, history = train_smen(bundle.codebook, config, rows, options, progress)
    return Bundle.build(config, bundle.codebook, weights, {}, history)
