"""A user or an item has one id, however a file writes it; what stands for nothing has none."""

import decimal
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.errors import EventsFileError
from lurm_model.files.datasets import load_events, load_labels
from lurm_model.files.ids import NULL_WORDS
from lurm_model.files.item_files import read_items
from lurm_model.files.reading import Reading

T = 1_000_000_000_000


def csv_file(folder: Path, ids: list[str]) -> Path:
    path = folder / "e.csv"
    path.write_text(
        "user_id,item_id,ts,age\n" + "".join(f'"{each}","{each}",{T},1\n' for each in ids), encoding="utf-8"
    )
    return path


def parquet_file(folder: Path, ids: Any) -> Path:
    path = folder / "e.parquet"
    n = len(ids)
    pyarrow.parquet.write_table(pa.table({"user_id": ids, "item_id": ids, "ts": [T] * n, "age": ["1"] * n}), path)
    return path


def lines_file(folder: Path, ids: list[Any]) -> Path:
    path = folder / "e.jsonl"
    path.write_text("".join(json.dumps({"u": each, "i": each, "ts": T}) + "\n" for each in ids))
    return path


WAYS: dict[str, Callable[[Path, list[int]], Path]] = {
    "csv": lambda folder, ids: csv_file(folder, [str(each) for each in ids]),
    "csv of doubles": lambda folder, ids: csv_file(folder, [f"{each}.0" for each in ids]),
    "int64": lambda folder, ids: parquet_file(folder, pa.array(ids, pa.int64())),
    "doubles": lambda folder, ids: parquet_file(folder, pa.array(ids, pa.float64())),
    "decimals": lambda folder, ids: parquet_file(
        folder, pa.array([decimal.Decimal(each) for each in ids], pa.decimal128(38, 2))
    ),
    "dictionary": lambda folder, ids: parquet_file(folder, pa.array([str(i) for i in ids]).dictionary_encode()),
    "lines": lines_file,
    "lines of texts": lambda folder, ids: lines_file(folder, [f"{each}.00" for each in ids]),
}
NAMED = Reading({"user_id": "u", "item_id": "i"})


@pytest.mark.parametrize("way", WAYS)
@given(st.lists(st.integers(1 - 2**53, 2**53 - 1), min_size=1, max_size=5))
def test_a_whole_number_is_one_id_in_every_format(way: str, ids: list[int]) -> None:
    with TemporaryDirectory() as folder:
        path = WAYS[way](Path(folder), ids)
        events = load_events([path], reading=NAMED if path.suffix == ".jsonl" else Reading())
        wanted = list(dict.fromkeys(map(str, ids)))
        assert events.users == events.items == wanted
        if path.suffix != ".jsonl":
            assert sorted(read_items(path, Reading.parse_items(attributes=["age"]))) == sorted(wanted)


@given(st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=5, unique=True))
def test_users_are_found_in_their_labels_however_these_write_them(ids: list[int]) -> None:
    with TemporaryDirectory() as folder:
        for ways in (["doubles", "csv"], ["csv of doubles", "decimals"]):
            labels = load_labels(WAYS[ways[0]](Path(folder), ids))
            events = load_events([WAYS[ways[1]](Path(folder), ids)])
            assert sorted(labels.users) == sorted(events.users)


@pytest.mark.parametrize(("kind", "bits"), [("float16", 11), ("float32", 24), ("float64", 53)])
def test_two_ids_that_a_column_of_floating_numbers_cannot_tell_apart_are_refused(
    tmp_path: Path, kind: str, bits: int
) -> None:
    column = np.array([2**bits - 2, 2**bits - 1], kind)
    assert load_events([parquet_file(tmp_path, column)]).users == [str(2**bits - 2), str(2**bits - 1)]
    column = np.array([3, 2**bits + 1], kind)
    with pytest.raises(EventsFileError, match=rf"user_id must be a text or a whole number below 2\^{bits}: .* row=2$"):
        load_events([parquet_file(tmp_path, column)])


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    ids = ["007", "1.10", "12e5", "v1.0", "+5", "1.0.0", "a b", "-"]
    assert load_events([csv_file(tmp_path, ids)]).users == ids


def test_uuids_of_parquet_are_their_usual_text(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=number) for number in (0, 1, 2**127 + 5)]
    events = load_events([parquet_file(tmp_path, pa.array([each.bytes for each in ids], pa.uuid()))])
    assert events.users == [str(each) for each in ids]


@pytest.mark.parametrize("word", NULL_WORDS)
def test_a_word_for_nothing_is_nobody(tmp_path: Path, word: str) -> None:
    for path in (csv_file(tmp_path, ["ann", word]), parquet_file(tmp_path, pa.array(["ann", word]))):
        with pytest.raises(EventsFileError, match=r"user_id is a word for nothing.* row=[23]"):
            load_events([path])


@pytest.mark.parametrize("column", [
    pa.array([1.0, None]), pa.array([1.0, float("nan")]), pa.array([1.0, 1.5]), pa.array([1.0, 2.0**60]),
    pa.array([1.0, float("inf")]), pa.array([decimal.Decimal("1.00"), decimal.Decimal("1.50")]),
    pa.array([b"a" * 16, b"\xff" * 16], pa.binary(16)), pa.array(["a", None]), pa.array([[1], [2]]),
    pa.array([b"a" * 16, None], pa.uuid()),
])  # fmt: skip
def test_a_column_that_holds_no_ids_is_refused_in_one_line(tmp_path: Path, column: Any) -> None:
    with pytest.raises(EventsFileError, match=r"user_id .*file=\S+ row=[12]$"):
        load_events([parquet_file(tmp_path, column)])


def test_a_stray_quote_does_not_swallow_rows_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"u{i},i,{T},x" for i in range(5)]
    rows[1], rows[4] = f'u1,i,{T},"x', f'u4,i,{T},x"'
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,ts,note\n" + "\n".join(rows) + "\n")
    assert len(load_events([path])) == 2
    assert "hide 3 lines" in caplog.text
    caplog.clear()
    path.write_text("user_id,item_id,ts\r\n\r\n" + "\r\n\r\n".join(f"u{i},i,{T}" for i in range(5)))
    assert len(load_events([path])) == 5
    assert not caplog.text


def test_other_separators_are_named_and_taken(tmp_path: Path) -> None:
    for separator, shown in ((";", ";"), ("\t", "tab"), ("|", "|")):
        path = tmp_path / "e.csv"
        path.write_text(separator.join(["user_id", "item_id", "ts"]) + "\n" + separator.join(["u", "i", str(T)]) + "\n")
        with pytest.raises(EventsFileError) as refused:
            load_events([path])
        assert f"--delimiter '{shown}'" in str(refused.value)
        assert load_events([path], reading=Reading.parse([], delimiter=separator)).users == ["u"]
