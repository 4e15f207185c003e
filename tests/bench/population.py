"""Synthetic populations of any size and length, with much of what makes real ones hard.

Interests that drift, seasons and weekends, users from one visit to hundreds, newcomers and leavers, popular and rare
items, attributes for a part of the items, an attribute that says nothing, and a label that only the distant past tells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lurm_model.events import Events, UserLabels
from state.periods import MS_PER_DAY, Int64

Float64 = NDArray[np.float64]

FIRST_DAY = 19_000
ITEMS_PER_TOPIC = 40
# Of a user's events, those by taste; the others go by popularity alone.
TASTE_SHARE = 0.75
KNOWN_SHARE = 0.7
LEAVER_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is. **Units**: events_mean per user."""

    n_users: int
    n_items: int
    n_days: int
    events_mean: float


@dataclass(frozen=True, slots=True)
class _Lives:
    """**Shapes**: float64[n_users] days of arrival, of leaving and of a change of taste; topics int64[n_users, 3] of
    before it, after it, and always."""

    arrives: Float64
    leaves: Float64
    turns: Float64
    topics: Int64


def population(size: Size, seed: int) -> tuple[Events, UserLabels]:
    """The events, and of every user the ``segment`` (what they always like) and ``origin`` (what they liked first)."""
    rng = np.random.default_rng(seed)
    n_topics = max(8, size.n_items // ITEMS_PER_TOPIC)
    topic = rng.permutation(np.arange(size.n_items) % n_topics)
    lives = _lives(size, n_topics, rng)
    user, day = _visits(size, lives, rng)
    item = _items(_wanted(user, day, lives, n_topics, rng), topic, rng)
    order = np.argsort(day, kind="stable")
    user, item, day = user[order], item[order], day[order]
    ts_ms = ((FIRST_DAY + day) * MS_PER_DAY).astype(np.int64)
    known = rng.random(size.n_items) < KNOWN_SHARE
    attributes = [{"shop": ["x"]} | ({"kind": [str(t)]} if k else {}) for t, k in zip(topic, known, strict=True)]
    users = [f"u{u}" for u in range(size.n_users)]
    labels = {"segment": lives.topics[:, 2] % 4, "origin": lives.topics[:, 0] % 4}
    columns = {name: [str(value) for value in values] for name, values in labels.items()}
    items = [f"i{i}" for i in range(size.n_items)]
    events = Events(user, item, ts_ms, np.ones(len(user), np.int64), users, items, attributes)
    return events.compact(), UserLabels(users, columns)


def _lives(size: Size, n_topics: int, rng: np.random.Generator) -> _Lives:
    n, span = size.n_users, float(size.n_days)
    arrives = np.where(rng.random(n) < 0.5, 0, rng.random(n) * 0.6 * span)
    left = rng.random(n) < LEAVER_SHARE
    leaves = np.where(left, arrives + rng.random(n) * (span - arrives), span)
    turns = arrives + (0.2 + 0.5 * rng.random(n)) * (leaves - arrives)
    return _Lives(arrives, leaves, turns, rng.integers(0, n_topics, (n, 3)))


def _visits(size: Size, lives: _Lives, rng: np.random.Generator) -> tuple[Int64, Float64]:
    """Who does something when: few do much; baskets of a few items; weekends count double."""
    activity = rng.lognormal(0, 1, size.n_users) * (lives.leaves - lives.arrives) / size.n_days
    baskets = np.maximum(rng.poisson(activity / activity.mean() * size.events_mean / 3), 1)
    user = np.repeat(np.arange(size.n_users), baskets)
    day = lives.arrives[user] + rng.random(len(user)) * (lives.leaves - lives.arrives)[user]
    to_weekend = (np.floor(day) % 7 < 5) & (rng.random(len(day)) < 0.25)
    moved = np.floor(day) // 7 * 7 + 5 + 2 * rng.random(len(day))
    inside = moved < lives.leaves[user]
    day = np.where(to_weekend & inside, moved, day)
    in_basket = rng.geometric(1 / 3, len(user))
    return np.repeat(user, in_basket), np.repeat(day, in_basket)


def _wanted(user: Int64, day: Float64, lives: _Lives, n_topics: int, rng: np.random.Generator) -> Int64:
    """The topic of every event: the old or the new taste, what is always liked, or what the season brings."""
    now = np.where(day < lives.turns[user], 0, 1)
    kind = rng.random(len(user))
    taste = np.where(kind < 0.5, lives.topics[user, now], lives.topics[user, 2])
    season = (day / 365.25 * n_topics + rng.normal(0, n_topics / 12, len(user))).astype(np.int64) % n_topics
    anything = np.where(rng.random(len(user)) < 0.5, season, rng.integers(0, n_topics, len(user)))
    return np.where(rng.random(len(user)) < TASTE_SHARE, taste, anything)


def _items(wanted: Int64, topic: Int64, rng: np.random.Generator) -> Int64:
    """An item of every wanted topic, the first of each most often (Zipf)."""
    order = np.argsort(topic, kind="stable")
    first = np.searchsorted(topic[order], np.arange(int(topic.max()) + 2))
    size = np.diff(first)[wanted]
    rank = np.floor(np.expm1(rng.random(len(wanted)) * np.log1p(size))).astype(np.int64)
    return order[first[wanted] + np.minimum(rank, size - 1)].astype(np.int64)
