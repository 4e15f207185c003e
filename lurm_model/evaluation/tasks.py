"""The questions asked of frozen embeddings: about who a user is, and about what comes after a cut in time."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lurm_model.errors import EventsFileError
from lurm_model.events import Events, UserLabels
from lurm_model.interests.codebook import attribute_tokens
from state.periods import Int64

Bool = NDArray[np.bool_]

# The first day of the fourth month of the Ta-Feng data, 2001-02-01, in Unix milliseconds.
TA_FENG_CUT_MS = 980_985_600_000
EVENTS_MIN = 5
PREFERENCES = 20
FUTURE_TASKS = ("churn", "preference")
AGE_YOUNG = ("<25", "25-29", "30-34")
AGE_OLD = ("45-49", "50-54", "55-59", "60-64", ">65")
# A label's values rarer than this among the users asked are not worth a question of their own.
LABEL_USERS_MIN = 50


@dataclass(frozen=True, slots=True)
class Task:
    """Yes-or-no questions whose AUCs are averaged. **Shapes**: labels bool[n_users, q], known bool[n_users]."""

    labels: Bool
    known: Bool


def ta_feng_tasks(events: Events, labels: UserLabels) -> Mapping[str, Task]:
    """Age, churn and preference, as rows of all users."""
    age = np.array(labels.columns["age_group"])
    known = age != ""
    ages = {
        "age_ge_45": Task(np.isin(age, AGE_OLD)[:, None], known),
        "age_lt_35": Task(np.isin(age, AGE_YOUNG)[:, None], known),
    }
    return ages | future_tasks(events, TA_FENG_CUT_MS)


def event_tasks(events: Events, labels: UserLabels | None, cut_ms: int) -> Mapping[str, Task]:
    """The same for any events: each column of labels against its values, churn and preference.

    **Raises** `EventsFileError` for labels that are named like one of these two, which would take their place.
    """
    if labels and (taken := [name for name in FUTURE_TASKS if name in labels.columns]):
        raise EventsFileError(f"a column of labels is named like a task of ours, rename it: column={taken[0]}")
    return _label_tasks(events, labels, cut_ms) | future_tasks(events, cut_ms)


def future_tasks(events: Events, cut_ms: int) -> dict[str, Task]:
    """Churn: nothing after the cut. Preference: something of each of the most frequent categories after the cut."""
    everyone = np.ones(len(events.users), np.bool_)
    later = events.where(events.ts_ms >= cut_ms)
    gone = np.bincount(later.user, minlength=len(events.users)) == 0
    category, n_categories = item_categories(events)
    top = np.argsort(-np.bincount(category[later.item], minlength=n_categories), kind="stable")[:PREFERENCES]
    has = np.zeros((len(events.users), n_categories), np.bool_)
    has[later.user, category[later.item]] = True
    return {"churn": Task(gone[:, None], everyone), "preference": Task(has[:, top], everyone)}


def item_categories(events: Events) -> tuple[Int64, int]:
    """A category per item, by the attribute that tells events apart best, else the item itself; and their number."""
    keys = sorted({key for attributes in events.item_attributes for key in attributes})
    found = max((_categories(events, key) for key in keys), key=lambda category: _split(events, category), default=None)
    if found is None or _split(events, found) == 0:
        found = np.arange(len(events.items))
    return found, int(found.max()) + 1


def _categories(events: Events, key: str) -> Int64:
    """An item's category is its most widespread value of one attribute; an item without is its own."""
    tokens_of = [attribute_tokens({key: found[key]} if key in found else {}) for found in events.item_attributes]
    count = Counter(token for tokens in tokens_of for token in tokens)
    names = [
        max(tokens, key=lambda token: (count[token], token)) if tokens else f"item {item}"
        for item, tokens in zip(events.items, tokens_of, strict=True)
    ]
    # An array of texts would give each the room of the longest.
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], np.int64)


def _split(events: Events, category: Int64) -> float:
    """How much the categories that are asked about, and the rest, say of an event: their entropy.

    A value that all items share says nothing, and next to nothing do values of one item each.
    """
    size = np.sort(np.bincount(category[events.item], weights=events.weight))[::-1]
    share = np.append(size[:PREFERENCES], size[PREFERENCES:].sum()) / size.sum()
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def eligible(events: Events, cut_ms: int) -> Int64:
    """Users with enough before the cut to be asked about."""
    return np.flatnonzero(np.bincount(events.user[events.ts_ms < cut_ms], minlength=len(events.users)) >= EVENTS_MIN)


def _label_tasks(events: Events, labels: UserLabels | None, cut_ms: int) -> dict[str, Task]:
    if labels is None:
        return {}
    row = {user: index for index, user in enumerate(labels.users)}
    rows = np.array([row.get(user, -1) for user in events.users], np.int64)
    asked, tasks = eligible(events, cut_ms), {}
    for name, column in labels.columns.items():
        # Texts as numbers, "" is 0: an array of texts would give each the room of the longest.
        number = {text: place for place, text in enumerate(sorted({"", *column}))}
        values = np.array([number[text] for text in (*column, "")], np.int64)[rows]
        frequent = np.flatnonzero(np.bincount(values[asked], minlength=len(number)) >= LABEL_USERS_MIN)
        frequent = frequent[frequent > 0]
        if len(frequent) >= 2:
            tasks[name] = Task(values[:, None] == frequent, values > 0)
    return tasks


def default_cut(events: Events) -> int:
    """Where the last quarter of the time begins, in Unix milliseconds."""
    first, last = int(events.ts_ms.min()), int(events.ts_ms.max())
    return last - (last - first) // 4
