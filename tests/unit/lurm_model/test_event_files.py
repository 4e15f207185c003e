import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lurm_model.datasets import iter_records, load_events, load_labels
from lurm_model.errors import EventsFileError
from lurm_model.event_files import read_columns, read_parts

ROWS = [
    {"user_id": "u2", "item_id": "b", "ts": 3000, "attributes": {"kind": "tea", "tag": ["x", "y"]}},
    {"user_id": "u1", "item_id": "a", "ts": 1000, "type": "buy"},
    {"user_id": "é", "item_id": "b", "ts": 2000, "type": "view", "attributes": {"kind": "other"}},
]
GOOD = '{"user_id": "u", "item_id": "i", "ts": 1}\n'


def write_json_lines(path: Path) -> Path:
    path.write_text("".join(json.dumps(row | {"extra": [1]}) + "\n" for row in ROWS), encoding="utf-8")
    return path


def write_gzip(path: Path) -> Path:
    path = path.with_name("events.jsonl.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


def write_csv(path: Path) -> Path:
    lines = ["ts,item_id,user_id,type,attributes,extra"]
    for row in ROWS:
        text = json.dumps(row["attributes"]).replace('"', '""') if "attributes" in row else ""
        lines.append(f'{row["ts"]},{row["item_id"]},{row["user_id"]},{row.get("type", "")},"{text}",1')
    path = path.with_suffix(".csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    attributes = [
        [(k, [v] if isinstance(v, str) else v) for k, v in row["attributes"].items()] if "attributes" in row else None
        for row in ROWS
    ]
    columns = {name: [row.get(name) for row in ROWS] for name in ("user_id", "item_id", "ts", "type")}
    table = pa.table(columns).append_column(
        "attributes", pa.array(attributes, pa.map_(pa.string(), pa.list_(pa.string())))
    )
    path = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(table, path)
    return path


WRITERS = [write_json_lines, write_gzip, write_csv, write_parquet]


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_of_file_reads_the_same(tmp_path: Path, write) -> None:
    events = load_events([write(tmp_path / "events.jsonl")], {"buy": 5})
    assert [events.users[u] for u in events.user] == ["u1", "é", "u2"]
    assert [events.items[i] for i in events.item] == ["a", "b", "b"]
    assert events.ts_ms.tolist() == [1000, 2000, 3000]
    assert events.weight.tolist() == [5, 1, 1]
    assert {k: list(v) for k, v in events.item_attributes[events.items.index("b")].items()} == {
        "kind": ["tea"],
        "tag": ["x", "y"],
    }
    assert events.item_attributes[events.items.index("a")] == {}


@pytest.mark.parametrize("write", WRITERS)
def test_records_come_in_order_of_time_with_what_they_have(tmp_path: Path, write) -> None:
    records = list(iter_records(write(tmp_path / "events.jsonl")))
    assert [record["ts"] for record in records] == [1000, 2000, 3000]
    assert records[0] == {"user_id": "u1", "item_id": "a", "ts": 1000, "type": "buy"}
    assert records[1]["attributes"] == {"kind": ["other"]}
    assert "type" not in records[2]
    json.dumps(records)


def test_several_files_are_one_stream_in_order_of_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text(GOOD + '{"user_id": "v", "item_id": "i", "ts": 9}\n')
    second.write_text('{"user_id": "v", "item_id": "j", "ts": 5}\n')
    events = load_events([first, second])
    assert events.ts_ms.tolist() == [1, 5, 9]
    assert [events.users[u] for u in events.user] == ["u", "v", "v"]


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("e.jsonl", GOOD + "\n{not json\n", 3),
        ("e.jsonl", GOOD + '{"user_id": "u", "ts": 1}\n', 2),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": "1"}\n', 2),
        ("e.jsonl", GOOD + "\n" + '{"user_id": "", "item_id": "i", "ts": 1}\n', 3),
        ("e.jsonl", '{"user_id": "u", "item_id": "i", "ts": 999999999999999999}\n', 1),
        ("e.jsonl", '{"user_id": "u", "item_id": "i", "ts": 99999999999999999999999}\n', 1),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": 1, "attributes": {"a": 1}}\n', 2),
        ("e.csv", "user_id,item_id\nu,i\n", 1),
        ("e.csv", "user_id,item_id,ts\nu,i,1\nu,i,soon\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,1\nu,,1\n", 3),
        ("e.csv", 'user_id,item_id,ts,attributes\nu,i,1,\nu,i,1,{"a": 1}\n', 3),
        ("e.csv", "user_id,item_id,ts\n", 1),
    ],
)
def test_a_bad_row_is_named_with_file_and_row_in_one_line(tmp_path: Path, name: str, text: str, row: int) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(EventsFileError) as refused:
        load_events([path])
    message = str(refused.value)
    assert f"file={path}" in message
    assert f"row={row}" in message
    assert "\n" not in message


def test_a_parquet_column_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pyarrow.parquet.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "ts": ["1"]}), path)
    with pytest.raises(EventsFileError, match="ts must be an integer"):
        load_events([path])


def test_missing_unreadable_and_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"no parquet")
    (tmp_path / "e.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "e.csv").write_bytes(b"")
    for name in ("missing.csv", "missing.jsonl", "e.parquet", "e.jsonl.gz", "e.csv", "e.xlsx"):
        with pytest.raises(EventsFileError, match=name):
            load_events([tmp_path / name])


def test_labels_are_texts_by_column(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("user_id,age,city\n007,30,\n8,40,Rome\n")
    (tmp_path / "l.jsonl").write_text('{"user_id": "007", "age": 30}\n{"user_id": "8", "age": 40, "city": "Rome"}\n')
    for name in ("l.csv", "l.jsonl"):
        labels = load_labels(tmp_path / name)
        assert labels.users == ["007", "8"]
        assert labels.columns == {"age": ["30", "40"], "city": ["", "Rome"]}


def test_labels_without_users_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("user,age\n1,2\n")
    with pytest.raises(EventsFileError, match="need user_id"):
        load_labels(tmp_path / "l.csv")


def test_a_parquet_file_is_read_by_row_group_and_rows_are_numbered_through(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    columns = {"user_id": ["a", "b", "c", "d", ""], "item_id": list("vwxyz"), "ts": [5, 4, 3, 2, 1]}
    pyarrow.parquet.write_table(pa.table(columns).slice(0, 4), path, row_group_size=3)
    assert [len(part.ts_ms) for part in read_parts(path)] == [3, 1]
    assert load_events([path]).ts_ms.tolist() == [2, 3, 4, 5]
    assert read_columns(path).item_id.to_pylist() == list("vwxy")
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=3)
    with pytest.raises(EventsFileError, match=r"user_id is empty: .* row=5"):
        load_events([path])


def test_more_events_than_fit_become_whole_lives_of_some_users(tmp_path: Path) -> None:
    n_users, n_each = 400, 7
    users = [f"u{row % n_users}" for row in range(n_users * n_each)]
    table = pa.table({"user_id": users, "item_id": users, "ts": list(range(len(users)))})
    orders = (table, table.take(pa.array(range(len(users) - 1, -1, -1))))
    kept = []
    for place, rows in enumerate(orders):
        path = tmp_path / f"{place}.parquet"
        pyarrow.parquet.write_table(rows, path, row_group_size=250)
        kept.append(load_events([path], events_max=1000))
    events = kept[0]
    assert 500 < len(events) <= 1000
    assert set(np.bincount(events.user).tolist()) == {n_each}
    assert set(kept[1].users) == set(events.users)
