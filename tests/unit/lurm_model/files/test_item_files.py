import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lurm_model.errors import EventsFileError
from lurm_model.files import file_pieces
from lurm_model.files.item_files import read_items
from lurm_model.files.reading import Reading

ROWS: list[dict[str, Any]] = [
    {"item_id": "b", "attributes": {"kind": "old"}, "user_id": "u", "ts": 1},
    {"item_id": "é", "attributes": None, "user_id": "u", "ts": 2},
    {"item_id": "b", "attributes": {"kind": "tea", "tag": ["x", "y"], "no": None}, "user_id": "v", "ts": 3},
    {"item_id": "b", "attributes": {}, "user_id": "v", "ts": 4},
]


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".ndjson.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = ["ts,attributes,item_id"]
    for row in rows:
        text = json.dumps(row["attributes"]).replace('"', '""') if row["attributes"] is not None else ""
        lines.append(f'{row["ts"]},"{text}",{row["item_id"]}')
    path = path.with_suffix(".csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    def pairs(attributes: dict[str, Any] | None) -> list[tuple[str, list[str]]] | None:
        if attributes is None:
            return None
        return [(k, [v] if isinstance(v, str) else v) for k, v in attributes.items() if v]

    kind = pa.map_(pa.string(), pa.list_(pa.string()))
    columns = {
        "item_id": pa.array([row["item_id"] for row in rows]),
        "attributes": pa.array([pairs(row["attributes"]) for row in rows], kind),
        "ts": pa.array([row["ts"] for row in rows]),
    }
    path = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


def write_structs(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".parquet")
    listed = [{"kind": None, "tag": None} | (row["attributes"] or {}) for row in rows]
    columns = {"item_id": [row["item_id"] for row in rows], "attributes": listed}
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("write", [write_json_lines, write_gzip, write_csv, write_parquet, write_structs])
def test_every_kind_of_file_gives_the_same_items_and_the_last_attributes_count(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    assert read_items(write(tmp_path / "items", ROWS)) == {"b": {"kind": ["tea"], "tag": ["x", "y"]}, "é": {}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ('{"attributes": {}}', "missing required field `item_id`"),
        ('{"item_id": ""}', "item_id is empty"),
        ('{"item_id": 7}', "Expected `str`"),
        ('{"item_id": "\\ud800"}', "Input data"),
        (json.dumps({"item_id": "é" * 200}), "item_id is longer than 256 bytes"),
        ('{"item_id": "i", "attributes": {"a": 1}}', "attributes: Expected"),
        ('{"item_id": "i", "attributes": [1]}', "attributes: Expected"),
        ('{"item_id": "i", "attributes": "no json"}', "attributes: Expected"),
        ('{"item_id": "i", "x": ' + "[" * 5_000, "recursion"),
    ],
    ids=range(10),
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": "fine"}\n' + line + "\n")
    with pytest.raises(EventsFileError) as refused:
        read_items(path)
    assert reason in str(refused.value)
    assert f"file={path} row=2" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_row_of_a_table_is_named_as_an_editor_counts_it(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('item_id,attributes\na,"{""kind"": ""tea""}"\nb,{}\nc,tea\n')
    with pytest.raises(EventsFileError, match=r"attributes: .*row=4"):
        read_items(path)
    pyarrow.parquet.write_table(pa.table({"item_id": ["a", None], "attributes": ["{}", "{}"]}), tmp_path / "i.parquet")
    with pytest.raises(EventsFileError, match=r"item_id is empty: .*row=2"):
        read_items(tmp_path / "i.parquet")


def test_rows_are_numbered_through_the_pieces_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_pieces, "PIECE_BYTES", 1 << 10)
    rows = [{"item_id": f"item-{row}", "attributes": {"kind": str(row)}, "ts": row} for row in range(500)]
    for write, first_row in ((write_json_lines, 1), (write_gzip, 1), (write_csv, 2), (write_parquet, 1)):
        assert len(read_items(write(tmp_path / "fine", rows))) == 500
        path = write(tmp_path / "bad", [*rows, {"item_id": "", "attributes": {}, "ts": 0}])
        row = 2 * 500 + 1 if write is write_json_lines else 500 + first_row
        with pytest.raises(EventsFileError, match=rf"item_id is empty: file={path} row={row}$"):
            read_items(path)


def write_catalogue(path: Path) -> Path:
    """A shop's own columns, without any attributes of ours."""
    columns = {"sku": [7, 8, 9], "category": ["tea", "rug", None], "price": [1.5, 2.0, 3.0]}
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        path.write_text("sku,category,price\n7,tea,1.5\n8,rug,2.0\n9,,3.0\n")
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.parquet"])
def test_a_catalogue_names_its_columns_as_it_likes(tmp_path: Path, name: str) -> None:
    path = write_catalogue(tmp_path / name)
    reading = Reading.parse_items(["item_id=sku"], ["kind=category", "price"])
    found = {item: dict(attributes) for item, attributes in read_items(path, reading).items()}
    price = {"8": "2", "9": "3"} if path.suffix == ".parquet" else {"8": "2.0", "9": "3.0"}
    assert found == {
        "7": {"kind": ["tea"], "price": ["1.5"]},
        "8": {"kind": ["rug"], "price": [price["8"]]},
        "9": {"price": [price["9"]]},
    }
    with pytest.raises(EventsFileError, match=r"missing=item_id .*have=sku,category,price"):
        read_items(path, Reading.parse_items([], ["category"]))
    with pytest.raises(EventsFileError, match=r"column is missing.* missing=attributes .*have=sku,category,price"):
        read_items(path, Reading.parse_items(["item_id=sku"]))


def test_attributes_of_another_type_than_objects_and_texts_are_refused(tmp_path: Path) -> None:
    for values in ([["ab"]], [[1]], [1]):
        pyarrow.parquet.write_table(pa.table({"item_id": ["a"], "attributes": values}), tmp_path / "i.parquet")
        with pytest.raises(EventsFileError, match=r"attributes must be objects or JSON texts: type=.* row=1"):
            read_items(tmp_path / "i.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"items{suffix}"
    if suffix == ".csv":
        path.write_text("id,attributes\n1,{}\n")
    else:
        pyarrow.parquet.write_table(pa.table({"id": ["1"], "attributes": ["{}"]}), path)
    with pytest.raises(EventsFileError, match=r"column is missing: .*missing=item_id .*have=id,attributes"):
        read_items(path)


def test_missing_empty_and_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.parquet").write_text("nothing")
    (tmp_path / "bad.jsonl.gz").write_text("nothing")
    for name, reason in {
        "none.jsonl": "No such file",
        "items.xlsx": "unknown kind of file",
        "empty.jsonl": "there are no items",
        "bad.parquet": "cannot read the file",
        "bad.jsonl.gz": "cannot read the file",
    }.items():
        with pytest.raises(EventsFileError, match=reason):
            read_items(tmp_path / name)
