import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from lurm_model.errors import EventsFileError
from lurm_model.files.datasets import load_labels


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.csv", "user_id,age\n1,2\n2,3\n1,4\n", "stands twice.* user=1 first_row=2 .*row=4"),
        ("l.csv", "user_id,age\n1,2\n,3\n", "user_id is empty: .*row=3"),
        ("l.csv", "user_id,age\n1,2\n2,3,4\n", "another number of columns.*row=3"),
        ("l.csv", "user_id,age,age\n1,2,3\n", "column stands twice: column=age"),
        ("l.csv", "user_id\n1\n", "need a row per user and a column"),
        ("l.csv", "user_id,age\n", "need a row per user and a column"),
        ("l.jsonl", '{"user_id": "1", "age": 2}\n\n{"user_id": 1, "age": 2}\n', "stands twice.* first_row=1 .*row=3"),
        ("l.jsonl", '{"user_id": "1", "age": 2}\n{"user": "2", "age": 2}\n', "missing=user_id .*row=2 have=user,age"),
        ("l.jsonl", '{"user_id": "1", "age": {"years": 2}}\n', "row=1"),
        ("l.xlsx", "", "unknown kind of file"),
    ],
)
def test_labels_that_are_wrong_are_named_with_their_rows(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(EventsFileError, match=reason):
        load_labels(tmp_path / name)


def test_labels_name_their_users_in_any_column_and_come_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("age,customer\n30,7\n")
    (tmp_path / "l.jsonl.gz").write_bytes(gzip.compress(b'{"age": 30, "customer": 7}\n'))
    pyarrow.parquet.write_table(pa.table({"age": [30], "customer": [7]}), tmp_path / "l.parquet")
    for name in ("l.csv", "l.jsonl.gz", "l.parquet"):
        labels = load_labels(tmp_path / name, "customer")
        assert (labels.users, labels.columns) == (["7"], {"age": ["30"]})


def test_labels_are_texts_by_column(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("user_id,age,city\n007,30,\n8,40,Rome\n")
    (tmp_path / "l.jsonl").write_text('{"user_id": "007", "age": 30}\n{"user_id": "8", "age": 40, "city": "Rome"}\n')
    for name in ("l.csv", "l.jsonl"):
        labels = load_labels(tmp_path / name)
        assert labels.users == ["007", "8"]
        assert labels.columns == {"age": ["30", "40"], "city": ["", "Rome"]}


def test_labels_without_users_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("user,age\n1,2\n")
    with pytest.raises(EventsFileError, match=r"missing=user_id .* have=user,age; say which it is with --users-id$"):
        load_labels(tmp_path / "l.csv")


def test_what_is_not_a_number_is_no_label(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"user_id": [1, 2], "age": [30.5, float("nan")]}), tmp_path / "l.parquet")
    assert load_labels(tmp_path / "l.parquet").columns == {"age": ["30.5", ""]}
