import json
from pathlib import Path

import numpy as np
import pytest

from lurm_model.events import Events, day_rows
from lurm_model.files.datasets import load_events, synthetic, write_events
from state.bags import Bags


@pytest.mark.parametrize("name", ["events.jsonl", "events.parquet"])
def test_written_events_read_back_the_same(tmp_path: Path, name: str) -> None:
    events, _ = synthetic(n_users=30, n_items=20, seed=1)
    write_events(events, tmp_path / name)
    read = load_events([tmp_path / name])
    assert [read.users[u] for u in read.user] == [events.users[u] for u in events.user]
    assert [read.items[i] for i in read.item] == [events.items[i] for i in events.item]
    np.testing.assert_array_equal(read.ts_ms, events.ts_ms)
    by_name = dict(zip(events.items, events.item_attributes, strict=True))
    assert all(by_name[item] == found for item, found in zip(read.items, read.item_attributes, strict=True))


def test_a_synthetic_group_prefers_its_topics() -> None:
    events, labels = synthetic(n_users=200, n_items=100, n_groups=4, seed=3)
    group = np.array(labels.columns["group"], np.int64)[events.user]
    topic = np.array([int(a["topic"][0]) for a in events.item_attributes])[events.item]
    assert np.mean(topic % 4 == group) > 0.4
    assert (np.diff(events.ts_ms) >= 0).all()
    again, _ = synthetic(n_users=200, n_items=100, n_groups=4, seed=3)
    np.testing.assert_array_equal(again.item, events.item)


def test_compact_events_forget_users_and_items_without_events() -> None:
    events, _ = synthetic(n_users=30, n_items=20, seed=1)
    some = events.where(events.user < 3)
    compact = some.compact()
    assert (len(some.users), len(compact.users)) == (30, 3)
    assert [compact.users[u] for u in compact.user] == [some.users[u] for u in some.user]
    assert [compact.items[i] for i in compact.item] == [some.items[i] for i in some.item]
    assert [compact.item_attributes[i] for i in compact.item] == [some.item_attributes[i] for i in some.item]


def test_what_was_known_before_a_time_has_no_attributes_that_were_told_later(tmp_path: Path) -> None:
    late, new, tea = ({"kind": [kind]} for kind in ("late", "new", "tea"))
    told = [(4, "a", late), (3, "b", new), (1, "a", {}), (2, "a", tea), (2, "b", {})]
    events = tmp_path / "e.jsonl"
    rows = [{"user_id": "u", "item_id": item, "ts": 10**12 + ts, "attributes": found} for ts, item, found in told]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = []
    for cut in (5, 3, 2):
        past = load_events([events]).before(10**12 + cut).compact()
        known.append((len(past), dict(zip(past.items, past.item_attributes, strict=True))))
    assert known == [(5, {"a": tea, "b": new}), (3, {"a": tea, "b": {}}), (1, {"a": {}})]


def test_attributes_of_a_catalogue_were_known_before_any_event() -> None:
    events, _ = synthetic(n_users=30, n_items=20, seed=1)
    cut_ms = int(events.ts_ms[len(events) // 2])
    assert events.before(cut_ms).item_attributes == events.item_attributes


def test_day_rows_hold_each_users_days_with_every_event_once() -> None:
    rows = day_rows(
        np.array([1, 0, 1, 1]), np.array([5, 9, 7, -1]), np.array([4, 2, 4, 3]), np.array([1, 1, 2, 1], np.int64)
    )
    assert list(zip(rows.user.tolist(), rows.period.tolist(), rows.event_time_ms.tolist(), strict=True)) == [
        (0, 0, 9),
        (1, -1, -1),
        (1, 0, 7),
    ]
    assert isinstance(rows.bags, Bags)
    assert rows.bags.interests.tolist() == [2, 3, 4]
    assert rows.bags.counts.tolist() == [1, 1, 3]


def test_events_know_their_number() -> None:
    events, _ = synthetic(n_users=5, n_items=20)
    assert isinstance(events, Events)
    assert len(events) == len(events.user) == events.weight.sum()
