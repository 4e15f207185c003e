"""How the item embedding learns: what one user did close together attracts, the other items of a batch repel.

An item is its own vector, if it has one, plus the mean of its tokens' vectors; only the rows a batch touches change.
Learning is mild and held to its start: it is there to bring items together that are had together, and the start already
says much of users that must not be forgotten. It runs on the CPU, where equal seeds give equal vectors.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, embedding_bag, normalize

from lurm_model.events import Events
from lurm_model.interests.weighting import Float32
from lurm_model.progress import Progress
from state.periods import Int64

# Events on each side that count as close by; events of the very same time always do: a basket has no order.
WINDOW = 5
BATCH_PAIRS = 512
# As many pairs as there are events, within bounds: little data still moves, much of it costs a minute, not an hour.
PAIRS_MIN = 20_000
PAIRS_MAX = 2_000_000
# Mild on purpose. Twice as fast and twice as long finds more held-out pairs, but tells less of what users will buy.
LEARNING_RATE = 1e-3
TEMPERATURE = 0.2
# Negatives come as often as they are popular; this share of it is taken back. All of it pulls everything towards the
# most popular items: held-out pairs are found more often, but user profiles are told apart less well.
POPULARITY_CORRECTION = 0.25
# The pull back to the start, per pair.
START_PULL = 0.1


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events in order of user and time, each with its window: positions of the same user only, its own included.

    **Shapes**: item, first, last (inclusive) and weight (how often it counts) all int64[n].
    """

    item: Int64
    first: Int64
    last: Int64
    weight: Int64

    @classmethod
    def of(cls, events: Events) -> "Sequences":
        """The windows of all events."""
        order = np.lexsort((events.ts_ms, events.user))
        user, ts_ms, position = events.user[order], events.ts_ms[order], np.arange(len(order))
        new_user = np.append(True, user[1:] != user[:-1])
        life_first, life_last = _runs(new_user)
        same_first, same_last = _runs(new_user | np.append(True, ts_ms[1:] != ts_ms[:-1]))
        first = np.maximum(life_first, np.minimum(same_first, position - WINDOW))
        last = np.minimum(life_last, np.maximum(same_last, position + WINDOW))
        return cls(events.item[order], first, last, events.weight[order])

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Int64, Int64]:
        """At most n pairs of different items: an event in proportion to its weight, another of its window evenly."""
        total = np.cumsum(self.weight)
        one = np.searchsorted(total, rng.integers(total[-1], size=n), side="right")
        others = self.last[one] - self.first[one]
        one, others = one[others > 0], others[others > 0]
        other = self.first[one] + rng.integers(others)
        other += other >= one
        a, b = self.item[one], self.item[other]
        return a[a != b], b[a != b]


class ItemEmbedding(nn.Module):
    """Items as sums of what is learned; an item without a vector of its own never gets one.

    **Shapes**: own float32[n_items, d], token_vectors float32[n_tokens, d], share float32[n_items, n_tokens] sparse,
    has_own bool[n_items].
    """

    def __init__(self, own: Float32, token_vectors: Float32, share: sp.csr_matrix, has_own: NDArray[np.bool_]) -> None:
        super().__init__()
        start = torch.from_numpy(own * has_own[:, None])
        self.start, self.share = start, share
        self.has_own = torch.from_numpy(has_own.astype(np.float32))[:, None]
        self.own = nn.Parameter(start.clone())
        self.tokens = nn.Parameter(torch.from_numpy(token_vectors).clone())

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of length 1, and how far each own vector has gone from its start, squared.

        **Shapes**: different items int64[n] -> [n, d], [n].
        """
        own = embedding(items, self.own, sparse=True) * self.has_own[items]
        drift = (own - self.start[items]).square().sum(dim=1)
        return normalize(own + self._from_tokens(items), dim=1), drift

    def _from_tokens(self, items: Tensor) -> Tensor:
        share = self.share[items.numpy()]
        tokens, offsets = (torch.from_numpy(part.astype(np.int64)) for part in (share.indices, share.indptr))
        weights = torch.from_numpy(share.data)
        return embedding_bag(
            tokens, self.tokens, offsets, mode="sum", sparse=True, per_sample_weights=weights, include_last_offset=True
        )

    @torch.no_grad()
    def token_vectors(self) -> Float32:
        """The tokens' vectors, float32[n_tokens, d]."""
        return np.asarray(self.tokens.numpy(), np.float32)

    @torch.no_grad()
    def vectors(self) -> Float32:
        """All items' vectors, float32[n_items, d] of length 1."""
        own = (self.own * self.has_own).numpy()
        return np.asarray(normalize(torch.from_numpy(own + self.share @ self.token_vectors()), dim=1).numpy())


def learn_items(items: ItemEmbedding, events: Events, seed: int, progress: Progress) -> list[float]:
    """Train in place; the loss of every batch, none if no user has two different items close together.

    **Source**: our decision; skip-gram's windows with in-batch negatives corrected for popularity.
    """
    n_pairs = min(max(len(events), PAIRS_MIN), PAIRS_MAX)
    pairs = np.stack(Sequences.of(events).draw(n_pairs, np.random.default_rng(seed)))
    # A pair alone has no negatives.
    batches = [batch for batch in torch.split(torch.from_numpy(pairs), BATCH_PAIRS, dim=1) if batch.shape[1] > 1]
    log_popularity = _log_popularity(events)
    optimiser: torch.optim.Optimizer = torch.optim.SparseAdam(list(items.parameters()), LEARNING_RATE)
    losses = []
    for step, (a, b) in enumerate(batches):
        progress("item vectors", step, len(batches))
        loss = pair_loss(items, a, b, log_popularity)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    progress("item vectors", 1, 1)
    return losses


def pair_loss(items: ItemEmbedding, a: Tensor, b: Tensor, log_popularity: Tensor) -> Tensor:
    """InfoNCE of every pair's second item among all second items, plus the pull of what took part to its start.

    **Shapes**: items a, b int64[p], log_popularity float32[n_items] -> scalar.
    """
    present, place = torch.unique(torch.cat([a, b]), return_inverse=True)
    vectors, drift = items(present)
    # Indexing would add up gradients of an item in another order every time, and equal seeds would not be equal.
    first, second = embedding(place[: len(a)], vectors), embedding(place[len(a) :], vectors)
    logits = first @ second.T / TEMPERATURE
    logits = logits - POPULARITY_CORRECTION * log_popularity[b]
    # The pair's own items elsewhere in the batch are no negatives.
    same = (a[:, None] == b) | (b[:, None] == b)
    logits = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
    loss: Tensor = cross_entropy(logits, torch.arange(len(a))) + START_PULL * drift.sum() / len(a)
    return loss


def _log_popularity(events: Events) -> Tensor:
    counts = np.bincount(events.item, weights=events.weight, minlength=len(events.items))
    return torch.from_numpy(np.log((counts + 1) / (counts.sum() + len(counts))).astype(np.float32))


def _runs(starts: NDArray[np.bool_]) -> tuple[Int64, Int64]:
    """The first and the last position of the run every position belongs to."""
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(starts)) - 1
    run = np.cumsum(starts) - 1
    return first[run], last[run]
