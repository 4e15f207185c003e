import gzip
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lurm_model.errors import EventsFileError
from lurm_model.files import file_pieces
from lurm_model.files.datasets import iter_records, load_events, load_labels, numbered, sample_parts
from lurm_model.files.event_files import Columns, read_columns, read_parts
from lurm_model.files.lines import LINE_BYTES_MAX
from lurm_model.files.reading import Reading

# 2001-09-09, in milliseconds.
T = 1_000_000_000_000
ROWS: list[dict[str, Any]] = [
    {"user_id": "u2", "item_id": "b", "ts": T + 3000, "attributes": {"kind": "other"}},
    {"user_id": "u1", "item_id": "a", "ts": T + 1000, "type": "buy"},
    {
        "user_id": "é",
        "item_id": "b",
        "ts": T + 2000,
        "type": "view",
        "attributes": {"kind": "tea", "tag": ["x", "y"]},
    },
]
GOOD = '{"user_id": "u", "item_id": "i", "ts": 1000000000001}\n'


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
def test_every_kind_of_file_reads_the_same(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    events = load_events([write(tmp_path / "events.jsonl")], {"buy": 5})
    assert [events.users[u] for u in events.user] == ["u1", "é", "u2"]
    assert [events.items[i] for i in events.item] == ["a", "b", "b"]
    assert events.ts_ms.tolist() == [T + 1000, T + 2000, T + 3000]
    assert events.weight.tolist() == [5, 1, 1]
    assert {k: list(v) for k, v in events.item_attributes[events.items.index("b")].items()} == {
        "kind": ["tea"],
        "tag": ["x", "y"],
    }
    assert events.item_attributes[events.items.index("a")] == {}


@pytest.mark.parametrize("write", WRITERS)
def test_records_come_in_order_of_time_with_what_they_have(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    records = list(iter_records(write(tmp_path / "events.jsonl")))
    assert [record["ts"] for record in records] == [T + 1000, T + 2000, T + 3000]
    assert records[0] == {"user_id": "u1", "item_id": "a", "ts": T + 1000, "type": "buy"}
    assert records[2]["attributes"] == {"kind": ["other"]}
    assert "type" not in records[2]
    json.dumps(records)


def test_several_files_are_one_stream_in_order_of_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text(GOOD + '{"user_id": "v", "item_id": "i", "ts": 1000000000009}\n')
    second.write_text('{"user_id": "v", "item_id": "j", "ts": 1000000000005}\n')
    events = load_events([first, second])
    assert events.ts_ms.tolist() == [T + 1, T + 5, T + 9]
    assert [events.users[u] for u in events.user] == ["u", "v", "v"]


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("e.jsonl", GOOD + "\n{not json\n", 3),
        ("e.jsonl", GOOD + '{"user_id": "u", "ts": 1}\n', 2),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": "1"}\n', 2),
        ("e.jsonl", GOOD + "\n" + '{"user_id": "", "item_id": "i", "ts": 1000000000001}\n', 3),
        ("e.jsonl", '{"user_id": "u", "item_id": "i", "ts": 9223372036854775808}\n', 1),
        ("e.jsonl", '{"user_id": "u", "item_id": "i", "ts": 99999999999999999999999}\n', 1),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": 1000000000001, "attributes": {"a": 1}}\n', 2),
        ("e.csv", "user_id,item_id\nu,i\n", 1),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nu,i,soon\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nu,,1000000000001\n", 3),
        ("e.csv", 'user_id,item_id,ts,attributes\nu,i,1000000000001,\nu,i,1000000000001,{"a": 1}\n', 3),
        ("e.csv", "user_id,item_id,ts\n", 1),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\n\nu,i\n", 3),
        ("e.csv", 'user_id,item_id,ts,note\nu,i,1000000000001,"u\nu"\nu,i,1000000000001,x,x\n', 3),
        ("e.csv", 'user_id,item_id,ts\nu,i,1000000000001\n"u\nu",i,1000000000001\n', 3),
        ("e.csv", "user_id;item_id;ts\nu;i;1000000000001\n", 1),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nnan,i,1000000000001\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nu,4.71E+12,1000000000001\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,20240105\n", 2),
        ("e.csv", "user_id,item_id,ts\nu,i,202401051030\n", 2),
        ("e.jsonl", '{"user_id": "u", "item_id": "i", "ts": 20240105103000}\n', 1),
        ("e.jsonl", GOOD + '{"user_id": "None", "item_id": "i", "ts": 1000000000001}\n', 2),
        ("e.csv", "user_id,item_id,ts,ts\nu,i,1,1\n", 1),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nu,i,1000000000\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000001\nu,i,2001-09-09\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,2001-02-30\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,2001-09-09 25:00\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,1000000000001\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,09/10/2001\n", 3),
        ("e.csv", "user_id,item_id,ts\nu,i,1000000000.5\n", 2),
        ("e.csv", "user_id,item_id,ts\nu,i,1\n", 2),
        ("e.csv", "user_id,item_id,ts\nu,i,2001-09-09\nu,i,0000-01-01\n", 3),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": "2001-09-09"}\n', 2),
        ("e.jsonl", GOOD + '{"user_id": "u", "item_id": "i", "ts": null}\n', 2),
        ("e.jsonl", '{"user_id": "u", "ts": 1}\n', 1),
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


def test_bytes_that_are_no_text_are_named_by_row(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_bytes(b"user_id,item_id,ts\nu,i,1000000000001\nu,\xff,1000000000001\n")
    with pytest.raises(EventsFileError, match=r"item_id is not UTF-8: .* row=3"):
        load_events([tmp_path / "e.csv"])


def test_a_quote_that_is_never_closed_is_found_where_it_may_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_pieces, "PIECE_BYTES", 100)
    path = tmp_path / "e.csv"
    row = "u,i,1000000000001\n"
    path.write_text("user_id,item_id,ts\n" + 20 * row + '"' + 20 * row)
    with pytest.raises(EventsFileError, match=r"is a quote not closed\?: .* row>=(\d+)") as refused:
        load_events([path])
    assert 15 < int(str(refused.value).rpartition(">=")[2]) <= 22


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.parquet"])
@pytest.mark.parametrize(
    ("reading", "missing"),
    [
        (Reading({"user_id": "customer"}), "customer"),
        (Reading({"type": "kind"}), "kind"),
        (Reading({}, {"brand": "BRAND_ID"}), "BRAND_ID"),
    ],
)
def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, name: str, reading: Reading, missing: str
) -> None:
    path, columns = tmp_path / name, {"user_id": "u", "item_id": "i", "ts": T}
    if name == "e.parquet":
        pyarrow.parquet.write_table(pa.table({key: [value] for key, value in columns.items()}), path)
    else:
        path.write_text(f"user_id,item_id,ts\nu,i,{T}\n" if name == "e.csv" else json.dumps(columns))
    with pytest.raises(EventsFileError, match=rf"missing={missing} .*have=user_id,item_id,ts"):
        load_events([path], reading=reading)


def test_a_given_unit_of_time_holds_for_numbers_whose_size_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,ts\nu,i,-86400\n")
    assert load_events([path], reading=Reading(time_unit="s")).ts_ms.tolist() == [-86_400_000]
    assert load_events([path], reading=Reading(time_unit="ms")).ts_ms.tolist() == [-86_400]
    for unit, reason in (("auto", "too small"), ("iso", "no ISO 8601 text")):
        with pytest.raises(EventsFileError, match=rf"{reason}.* ts=-86400 .*row=2"):
            load_events([path], reading=Reading(time_unit=unit))


def test_the_unit_of_a_parquet_time_stamp_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    times = pa.array([T], pa.int64()).cast(pa.timestamp("ms"))
    pyarrow.parquet.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "ts": times}), path)
    assert load_events([path], reading=Reading(time_unit="iso")).ts_ms.tolist() == [T]
    with pytest.raises(EventsFileError, match="leave out --time-unit"):
        load_events([path], reading=Reading(time_unit="s"))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("20010230", "%Y%m%d"), ("31/6/2001", "%d/%m/%Y"), ("Feb 29 2001", "%b %d %Y"), ("2001-11-31 10:00", "%F %R"),
        ("20010230 01:00+0530", "%Y%m%d %H:%M%z"), ("20010430 23:00-0900", "%Y%m%d %H:%M%z"),
    ],
)  # fmt: skip
def test_a_day_that_its_month_does_not_have_is_refused_by_pattern_too(tmp_path: Path, text: str, pattern: str) -> None:
    reading = Reading(time_unit=pattern)
    later = text.replace("30", "31") if text.startswith("20010430") else text
    assert later == text or load_events([write_one_column(tmp_path / "good.parquet", "ts", [text])], reading=reading)
    with pytest.raises(EventsFileError, match=r"its month does not have: ts=.* row=1$"):
        load_events([write_one_column(tmp_path / "e.parquet", "ts", [later])], reading=reading)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("1/3/2001", "%d/%m/%Y"), ("MARCH 1 2001", "%B %d %Y"), ("20010228 23:30-0100", "%Y%m%d %R%z")],
)
def test_a_first_of_march_is_one_however_it_is_written(tmp_path: Path, text: str, pattern: str) -> None:
    events = load_events([write_one_column(tmp_path / "e.parquet", "ts", [text])], reading=Reading(time_unit=pattern))
    assert events.span == "first=2001-03-01 last=2001-03-01"


@pytest.mark.parametrize(("text", "pattern"), [("13:47", "%H:%M"), ("17.08.", "%d.%m."), ("2001-W33-2", "%G-W%V-%u")])
def test_a_pattern_that_says_no_year_is_refused(tmp_path: Path, text: str, pattern: str) -> None:
    path = write_one_column(tmp_path / "e.parquet", "ts", [text])
    with pytest.raises(EventsFileError, match=r"is no pattern of a date with its year: ts=.* row=1$"):
        load_events([path], reading=Reading(time_unit=pattern))


def test_a_time_that_is_written_in_another_way_names_the_option_that_reads_it(tmp_path: Path) -> None:
    with pytest.raises(EventsFileError, match=r"--time-unit .* a pattern .* ts=01/02/2001 10:00"):
        load_events([write_one_column(tmp_path / "e.parquet", "ts", ["01/02/2001 10:00"])])


def test_a_number_for_an_id_in_json_lines_names_the_option_that_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"user_id": 5, "item_id": "i", "ts": 1000000000001}\n')
    with pytest.raises(EventsFileError, match=r"--column user_id=user_id takes whole numbers too.* row=1$"):
        load_events([path])
    assert load_events([path], reading=Reading.parse(["user_id=user_id"])).users == ["5"]


@pytest.mark.parametrize("first", ["nan", "1700000000.5", "09/10/2001", "2001-02-30", "0000-01-01"])
def test_the_first_time_stamp_is_not_held_against_itself(tmp_path: Path, first: str) -> None:
    (tmp_path / "e.csv").write_text(f"user_id,item_id,ts\nu,i,{first}\nu,i,2001-09-09\n")
    with pytest.raises(EventsFileError, match=rf"^ts is (?!.*the file's first).*: ts={first} .*row=2$"):
        load_events([tmp_path / "e.csv"])


def write_one_column(path: Path, column: str, values: Any) -> Path:
    """A Parquet file of rows that are well but for this column."""
    n = len(values)
    pyarrow.parquet.write_table(
        pa.table({"user_id": ["u"] * n, "item_id": ["i"] * n, "ts": [T] * n} | {column: values}), path
    )
    return path


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.timestamp("s", "Europe/Berlin"), pa.date32()])
def test_a_time_of_the_year_10000_is_refused_by_its_number(tmp_path: Path, kind: pa.DataType) -> None:
    raw = {"timestamp[ms]": 253_402_300_800_000, "date32[day]": 2_932_897}.get(str(kind), 253_402_300_800)
    times = pa.array([0, raw], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    with pytest.raises(EventsFileError, match=r"years 1 to 9999: ts=253402300800000 .*row=2"):
        load_events([write_one_column(tmp_path / "e.parquet", "ts", times)])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_hour_that_a_zone_has_twice_is_read_as_it_was_meant(tmp_path: Path, unit: str) -> None:
    seconds = [1_698_539_400, 1_698_543_000]  # half past two in Berlin, in summer and in winter
    times = pa.array(seconds, pa.timestamp("s", "Europe/Berlin")).cast(pa.timestamp(unit, "Europe/Berlin"))
    events = load_events([write_one_column(tmp_path / "e.parquet", "ts", times)])
    assert events.ts_ms.tolist() == [1000 * second for second in seconds]


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_numbers_with_fractions_are_no_ids(tmp_path: Path, column: str) -> None:
    path = write_one_column(tmp_path / "e.parquet", column, [1.0, 12345678901.0, 1.5])
    with pytest.raises(EventsFileError, match=rf"{column} must be a text or a whole number.*{column}=1.5 .*row=3"):
        load_events([path])
    if column == "user_id":
        with pytest.raises(EventsFileError, match="user_id must be a text or a whole number"):
            load_labels(path)


def test_bytes_that_are_no_text_are_named_behind_a_null_too(tmp_path: Path) -> None:
    kinds = pa.array([None, b"buy", b"\xff"], pa.binary())
    with pytest.raises(EventsFileError, match=r"type is not UTF-8: .* row=3"):
        load_events([write_one_column(tmp_path / "e.parquet", "type", kinds)])


def test_a_huge_unsigned_number_is_no_date(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    numbers = pa.array([T, 2**64 - 1], pa.uint64())
    pyarrow.parquet.write_table(pa.table({"user_id": ["u", "u"], "item_id": ["i", "i"], "ts": numbers}), path)
    with pytest.raises(EventsFileError, match=rf"ts={2**64 - 1} .*row=2"):
        load_events([path], reading=Reading(time_unit="ms"))


def test_mapped_numbers_of_json_lines_are_texts_and_columns_join_the_attributes(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    row = {"user_id": 7, "sku": 8, "when": T, "attributes": {"a": "x", "size": "s"}, "size": 3, "tags": ["p", "q"]}
    path.write_text(json.dumps(row | {"organic": True}) + "\n")
    attributes = {"size": "size", "tags": "tags", "organic": "organic", "own": "sku"}
    named = Reading({"user_id": "user_id", "item_id": "sku", "ts": "when"}, attributes)
    (record,) = iter_records(path, named)
    assert record == {
        "user_id": "7",
        "item_id": "8",
        "ts": T,
        "attributes": {"a": ["x"], "size": ["3"], "tags": ["p", "q"], "organic": ["true"], "own": ["8"]},
    }


def test_parquet_lists_and_numbers_are_attributes_too(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    table = {"user_id": ["u", "v"], "item_id": [1, 2], "ts": [T, T], "tags": [["p", "q"], None], "shelf": [4, None]}
    pyarrow.parquet.write_table(pa.table(table), path)
    records = list(iter_records(path, Reading({}, {"tags": "tags", "shelf": "shelf"})))
    assert records[0]["attributes"] == {"tags": ["p", "q"], "shelf": ["4"]}
    assert records[1] == {"user_id": "v", "item_id": "2", "ts": T}


def test_attributes_of_a_category_are_the_texts_that_it_names(tmp_path: Path) -> None:
    texts = pa.array(['{"kind": "tea"}', None, '{"kind": "tea"}']).dictionary_encode()
    events = load_events([write_one_column(tmp_path / "e.parquet", "attributes", texts)])
    assert events.item_attributes == [{"kind": ["tea"]}]


def test_a_parquet_column_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pyarrow.parquet.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "ts": [1.5]}), path)
    with pytest.raises(EventsFileError, match="ts must be integers"):
        load_events([path])


def test_missing_unreadable_and_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"no parquet")
    (tmp_path / "e.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "e.csv").write_bytes(b"")
    for name in ("missing.csv", "missing.jsonl", "e.parquet", "e.jsonl.gz", "e.csv", "e.xlsx"):
        with pytest.raises(EventsFileError, match=name):
            load_events([tmp_path / name])


def test_a_parquet_file_is_read_some_rows_at_a_time_and_rows_are_numbered_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.parquet"
    monkeypatch.setattr(file_pieces, "PIECE_ROWS", 3)
    columns = {"user_id": ["a", "b", "c", "d", ""], "item_id": list("vwxyz"), "ts": [T + 5, T + 4, T + 3, T + 2, T + 1]}
    # A row group may be the whole file.
    pyarrow.parquet.write_table(pa.table(columns).slice(0, 4), path)
    assert [len(part.ts_ms) for part in read_parts(path)] == [3, 1]
    assert load_events([path]).ts_ms.tolist() == [T + 2, T + 3, T + 4, T + 5]
    assert read_columns(path).item_id.to_pylist() == list("vwxy")
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=3)
    with pytest.raises(EventsFileError, match=r"user_id is empty: .* row=5"):
        load_events([path])


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz"])
def test_a_line_that_never_ends_is_refused_before_memory_holds_it(tmp_path: Path, name: str) -> None:
    path, event = tmp_path / name, '{{"user_id":"{}","item_id":"i","ts":1000000000000}}\n'
    with gzip.open(path, "wt", compresslevel=1) if name.endswith("gz") else path.open("w") as file:
        file.write(event.format("u") + "[")
        for _ in range(8):
            file.write(event.format("u").strip() * (LINE_BYTES_MAX // 32))
    tracemalloc.start()
    try:
        with pytest.raises(EventsFileError, match=r"a line is longer than 16777216 bytes.* row=2$"):
            load_events([path])
        assert tracemalloc.get_traced_memory()[1] < 4 * LINE_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.csv.gz", "e.jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_the_text_and_utf16_is_named(tmp_path: Path, name: str) -> None:
    is_csv = ".csv" in name
    text = f"user_id,item_id,ts\nu,i,{T}\n" if is_csv else f'{{"user_id": "u", "item_id": "i", "ts": {T}}}\n'
    pack = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(text.encode("utf-8-sig")))
    assert load_events([tmp_path / name]).users == ["u"]
    (tmp_path / name).write_bytes(pack(text.encode("utf-16")))
    with pytest.raises(EventsFileError, match=r"UTF-16, save it as UTF-8.* row=1$"):
        load_events([tmp_path / name])


@pytest.fixture
def huge() -> list[Columns]:
    """Parts whose ids are more than 2 GiB together, of which memory holds one."""
    ids = pa.array(["x" * 2**20, "y" * 2**20])
    return [Columns(ids, ids, np.array([T, T]), ids, None)] * 1025


def test_parts_with_more_ids_than_one_array_holds_are_joined(huge: list[Columns]) -> None:
    joined = Columns.joined(huge)
    assert {len(column) for column in (joined.user_id, joined.item_id, joined.ts_ms)} == {2050}
    assert joined.type is not None
    assert len(joined.type) == 2050


def test_more_ids_than_one_array_holds_are_numbered(huge: list[Columns]) -> None:
    numbers, texts = numbered([part.user_id for part in huge])
    assert numbers.tolist() == [0, 1] * 1025
    assert [text[0] for text in texts] == ["x", "y"]


N_USERS, N_EACH = 600, 200


def write_many(path: Path) -> Path:
    """Events of users that come by in turn."""
    rows = range(N_USERS * N_EACH)
    if path.suffix == ".parquet":
        users = [f"u{row % N_USERS}" for row in rows]
        table = pa.table({"user_id": users, "item_id": users, "ts": [T + row for row in rows]})
        # Dictionaries are decoded into buffers of their own, of some megabytes whatever the file.
        pyarrow.parquet.write_table(table, path, use_dictionary=False, data_page_size=1 << 13)
    elif path.suffix == ".csv":
        lines = (f"u{row % N_USERS},u{row % N_USERS},{T + row}\n" for row in rows)
        path.write_text("user_id,item_id,ts\n" + "".join(lines))
    else:
        event = '{{"user_id":"u{0}","item_id":"u{0}","ts":{1}}}\n'
        text = "".join(event.format(row % N_USERS, T + row) for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["e.csv", pytest.param("e.jsonl", marks=pytest.mark.slow), "e.jsonl.gz", "e.parquet"])
def test_a_sample_of_whole_lives_never_holds_more_than_a_piece_beside_it_in_every_format(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held = write_many(tmp_path / name), []
    monkeypatch.setattr(file_pieces, "PIECE_BYTES", 1 << 13)
    monkeypatch.setattr(file_pieces, "PIECE_ROWS", 1000)
    before = pa.total_allocated_bytes()

    def watched() -> Iterator[Columns]:
        for part in read_parts(path):
            held.append(pa.total_allocated_bytes() - before)
            yield part

    tracemalloc.start()
    try:
        kept = Columns.joined(sample_parts(watched(), 5000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(held) > 50
    whole = read_columns(path)
    assert max(held) < (whole.user_id.nbytes + whole.item_id.nbytes + whole.ts_ms.nbytes) / 2
    # As Python's objects all rows are over 20 MB.
    assert peak < 4e6
    lives = Counter(kept.user_id.to_pylist())
    assert 2500 < lives.total() <= 5000
    assert set(lives.values()) == {N_EACH}
    assert load_events([path], events_max=5000).users == list(lives)


def test_a_sample_without_anybody_says_so(tmp_path: Path) -> None:
    path = write_many(tmp_path / "e.parquet")
    with pytest.raises(EventsFileError, match=rf"raise --events-max: events_max=10 events={N_USERS * N_EACH}"):
        load_events([path], events_max=10)


def test_a_sample_is_of_the_same_users_in_any_order(tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(write_many(tmp_path / "0.parquet"))
    pyarrow.parquet.write_table(table.take(pa.array(range(len(table) - 1, -1, -1))), tmp_path / "1.parquet")
    first, second = (load_events([tmp_path / f"{place}.parquet"], events_max=5000) for place in range(2))
    assert set(first.users) == set(second.users)
