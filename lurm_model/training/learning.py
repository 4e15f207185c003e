"""How SMEN learns: epochs of batches of users, Adam, a held-out share of the users that says when to stop.

Every epoch draws from a generator of its own, so that a training taken up at a checkpoint goes on as if it had never
been interrupted. On CUDA the forward pass but for the recurrences runs in bfloat16, on the CPU all is float32.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lurm_model.errors import CheckpointError, TrainingDataError
from lurm_model.interests.weighting import Float32
from lurm_model.progress import Progress
from lurm_model.smen.network import Smen
from lurm_model.training.checkpoint import load_state, save_state
from lurm_model.training.contrast import indicators
from lurm_model.training.objective import WEIGHTS, Objective, Weights, log_popularity
from lurm_model.training.views import Reader, Views, epoch_views, whole_lives
from state.history import Rows
from state.periods import Int64

BATCH_USERS = 256
# Anchors and interest vectors start from what the items taught and should stay near; the rest starts from nothing.
LEARNING_RATE = 5e-3
ANCHORS_LEARNING_RATE = 2e-4
EPOCHS = 3
# Few users make few batches: they are gone through more often, so that something is learned at all.
STEPS_MIN = 120
# More users than this add nothing to an epoch but time; every epoch draws its own.
EPOCH_USERS_MAX = 200_000
# The held-out loss says when to stop: of this share of the users, where that is enough to tell.
HELD_OUT_SHARE = 0.05
HELD_OUT_USERS = (BATCH_USERS, 8 * BATCH_USERS)
# Epochs in a row that do not lower it by this share end the training; the best weights are kept.
PATIENCE = 2
IMPROVEMENT_MIN = 5e-4
# The readout is set by what the anchors carry of this many users.
READOUT_USERS_MAX = 20_000
# How many epochs at most are summed up in a line of progress: tiny data has many tiny ones.
SUMMARIES = 8

History = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """How to learn. ``checkpoint`` is a file to go on from and to save to after every epoch.

    ``epochs`` None means `EPOCHS`, more where these make fewer than `STEPS_MIN` steps, fewer once they no longer help.
    A number is done exactly. Either way the best weights are kept.
    """

    epochs: int | None
    seed: int
    device: str = "cpu"
    checkpoint: Path | None = None
    weights: Weights = WEIGHTS


def learn(smen: Smen, rows: Rows, idf: Float32, options: LearnOptions, progress: Progress) -> History:
    """Train in place; what every epoch's loss and indicators were, and its held-out loss if enough users are there.

    **Raises** `TrainingDataError` when fewer than two users have two events.
    """
    learner = _Learner(smen, rows, idf, options)
    learner.resume()
    while not learner.finished:
        learner.epoch(progress)
        learner.save()
    return learner.finish()


class _Learner:
    """A training under way. Invariant: between epochs ``_state()`` is all there is to it."""

    def __init__(self, smen: Smen, rows: Rows, idf: Float32, options: LearnOptions) -> None:
        self._rows, self._options = rows, options
        self._reader = Reader(smen.config, idf)
        self._users, self._held_out = _hold_out(_with_two_events(rows), options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            popularity = log_popularity(rows.bags.interests, smen.config.n_interests)
            self._objective = Objective(smen, popularity, options.weights).to(options.device)
        anchors = list(smen.anchors.parameters())
        rest = [parameter for parameter in self._objective.parameters() if all(parameter is not a for a in anchors)]
        groups: list[dict[str, Any]] = [{"params": anchors, "lr": ANCHORS_LEARNING_RATE}, {"params": rest}]
        self._optimiser = torch.optim.Adam(groups, LEARNING_RATE)
        self._batches = -(-min(len(self._users), EPOCH_USERS_MAX) // BATCH_USERS)
        enough = max(EPOCHS, -(-STEPS_MIN // self._batches))
        self._epochs = enough if options.epochs is None else options.epochs
        self._history: History = {}
        self._best: dict[str, torch.Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: all epochs are over, or none of the last ones helped."""
        done = len(self._history.get("loss", []))
        losses = self._history.get("held_out", []) if self._options.epochs is None else []
        return done >= self._epochs or (len(losses) > 0 and done - 1 - _best_epoch(losses) >= PATIENCE)

    def epoch(self, progress: Progress) -> None:
        """One pass over the users, and what the held-out ones say of it."""
        number, total = len(self._history.get("loss", [])), 0.0
        rng = np.random.default_rng((self._options.seed, number))
        order = rng.permutation(self._users)[:EPOCH_USERS_MAX]
        self._objective.train()
        for step, views in enumerate(epoch_views(self._rows, order, BATCH_USERS, self._reader, rng)):
            loss, _, _ = self._forward(views)
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._optimiser.step()
            total += float(loss.detach())
            progress("SMEN", number * self._batches + step + 1, self._epochs * self._batches)
        self._note({"loss": total / self._batches} | self._check())
        if (number + 1) % -(-self._epochs // SUMMARIES) == 0:
            progress(self._summary(), 1, 1)

    def _note(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self._history.setdefault(name, []).append(round(value, 5))
        losses = self._history.get("held_out")
        if losses is None or _best_epoch(losses) == len(losses) - 1:
            self._best = {name: tensor.clone() for name, tensor in self._objective.smen.state_dict().items()}

    @torch.no_grad()
    def _check(self) -> dict[str, float]:
        """The mean loss of the held-out users and the contrast's indicators, on the same views every time.

        Where nobody is held out, the indicators are those of a batch of the users who are learned from.
        """
        users = self._held_out if len(self._held_out) else self._users[:BATCH_USERS]
        self._objective.eval()
        rng = np.random.default_rng(self._options.seed)
        results = [self._forward(view) for view in epoch_views(self._rows, users, BATCH_USERS, self._reader, rng)]
        found = indicators(*results[0][1:])
        if not len(self._held_out):
            return found
        return {"held_out": float(np.mean([float(loss) for loss, _, _ in results]))} | found

    def _forward(self, views: Views) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = self._options.device
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self._objective(views.to(device))
        return result

    def _summary(self) -> str:
        """The last epoch in a line."""
        facts = " ".join(f"{name}={values[-1]:.3f}" for name, values in self._history.items())
        return f"epoch {len(self._history['loss'])}: {facts}"

    def resume(self) -> None:
        """Go on where the checkpoint stands, if there is one. **Raises** `CheckpointError`: it is another network's."""
        state = load_state(self._options.checkpoint)
        if not state:
            return
        try:
            self._objective.load_state_dict(state["objective"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._history, self._best = dict(state["history"]), dict(state["best"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            facts = f"file={self._options.checkpoint} reason={' '.join(str(error).split())[:200]}"
            raise CheckpointError(
                f"checkpoint is of another model or version, remove it to begin again: {facts}"
            ) from error

    def save(self) -> None:
        """Leave a checkpoint."""
        save_state(self._options.checkpoint, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "objective": self._objective.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "history": self._history,
            "best": self._best,
        }

    def finish(self) -> History:
        """Give SMEN its best weights, and set its readout by them."""
        smen = self._objective.smen
        if self._best:
            smen.load_state_dict(self._best)
        smen.eval()
        carried = self._carried(smen)
        smen.to("cpu").fit_readout(carried)
        return self._history

    @torch.no_grad()
    def _carried(self, smen: Smen) -> torch.Tensor:
        """What the anchors carry of the users learned from, or of a draw of them: float32[n, n_anchors, H]."""
        users = np.random.default_rng(self._options.seed).permutation(self._users)[:READOUT_USERS_MAX]
        table, lives = smen.table(), whole_lives(self._rows, users, BATCH_USERS, self._reader)
        return torch.cat([smen.carried(life.to(self._options.device), table).cpu() for life in lives])


def _best_epoch(losses: list[float]) -> int:
    """The last epoch that was better than the best before it by more than chance."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best] * (1 - IMPROVEMENT_MIN):
            best = epoch
    return best


def _hold_out(users: Int64, seed: int) -> tuple[Int64, Int64]:
    """Who is learned from, and who is only looked at: nobody, where too few would remain to tell anything."""
    least, most = HELD_OUT_USERS
    n = min(int(len(users) * HELD_OUT_SHARE), most)
    if n < least:
        return users, users[:0]
    order = np.random.default_rng(seed).permutation(users)
    return np.sort(order[n:]), np.sort(order[:n])


def _with_two_events(rows: Rows) -> Int64:
    """Users with something to split, two at least: one alone has nobody to be told from."""
    counts = np.bincount(rows.user[rows.bags.owners], weights=rows.bags.counts)
    users = np.flatnonzero(counts >= 2)
    if len(users) < 2:
        facts = f"users={np.count_nonzero(counts)} with_two_events={len(users)}"
        raise TrainingDataError(f"too little to learn from, need users with two events, take in a longer time: {facts}")
    return users
