"""However events are written - format, columns' names, unit of time, size of a piece - they read back the same."""

import csv
import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.errors import EventsFileError
from lurm_model.files import file_pieces
from lurm_model.files.datasets import iter_records, load_events, load_labels
from lurm_model.files.ids import NULL_WORDS
from lurm_model.files.reading import Reading
from lurm_model.files.time_stamps import MS_MIN, SECONDS_MIN, calendar_pattern

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime.fromisoformat("0001-01-02"), datetime.fromisoformat("9999-12-30")
# JSON needs no surrogates, a row of CSV no NUL; quotes, commas and line breaks are welcome.
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
# What is written is read as the same id, but for what is none, and numbers that have another spelling.
ids_written = words.filter(lambda word: word not in NULL_WORDS and not re.search(r"[\r\n]|^-?[0-9.]+([eE].*)?$", word))
seconds = st.integers(SECONDS_MIN, 8_000_000_000)
events = st.fixed_dictionaries(
    {"user_id": ids_written, "item_id": ids_written, "s": seconds},
    optional={"type": words, "kind": words, "tag": words},
)
UNITS = ["s", "ms", "us", "ns", "iso", "zone", "date", "%Y%m%d%H%M%S"]


def stamp(s: int, unit: str) -> Any:
    """The same instant in this unit; dates are midnights."""
    when = EPOCH + timedelta(seconds=s)
    if unit == "zone":
        return (when + timedelta(hours=5, minutes=30)).replace(tzinfo=None).isoformat(" ") + "+05:30"
    if "%" in unit:
        return when.strftime(unit)
    return {
        "s": s,
        "ms": s * 1000,
        "us": s * 10**6,
        "ns": s * 10**9,
        "iso": when.replace(tzinfo=None).isoformat(),
        "date": when.date().isoformat(),
    }[unit]


def rows_of(given: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    names = {"user_id": "customer", "item_id": "sku", "kind": "KIND", "tag": "tag", "type": "what"}
    return [{names[k]: v for k, v in event.items() if k != "s"} | {"when": stamp(event["s"], unit)} for event in given]


def write_csv(rows: list[dict[str, Any]], folder: Path) -> Path:
    with (folder / "e.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["when", "tag", "sku", "KIND", "customer", "what"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "e.csv"


def write_lines(rows: list[dict[str, Any]], folder: Path) -> Path:
    (folder / "e.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    return folder / "e.jsonl"


def write_gzip(rows: list[dict[str, Any]], folder: Path) -> Path:
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(write_lines(rows, folder).read_bytes()))
    return folder / "e.jsonl.gz"


def write_parquet(rows: list[dict[str, Any]], folder: Path) -> Path:
    names = ["when", "tag", "sku", "KIND", "customer", "what"]
    columns = {name: [row.get(name) for row in rows] for name in names}
    types = {name: pa.string() for name in names[1:]}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, folder / "e.parquet", row_group_size=3)
    return folder / "e.parquet"


def expected(given: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    whole = 86_400 if unit == "date" else 1
    records = []
    for event in sorted(given, key=lambda event: event["s"] // whole):
        attributes = {name: [event[name]] for name in ("kind", "tag") if name in event}
        record = {"user_id": event["user_id"], "item_id": event["item_id"], "ts": event["s"] // whole * whole * 1000}
        records.append(
            record
            | ({"type": event["type"]} if "type" in event else {})
            | ({"attributes": attributes} if attributes else {})
        )
    return records


NAMED = {"user_id": "customer", "item_id": "sku", "ts": "when", "type": "what"}
FULL = {"user_id": "u", "item_id": "i", "s": SECONDS_MIN, "type": "t", "kind": "k", "tag": "x"}


@pytest.mark.parametrize("write", [write_csv, write_lines, write_gzip, write_parquet])
@given(st.lists(events, max_size=12), st.sampled_from(UNITS), st.sampled_from([1, 400, 2 << 20]))
def test_events_read_back_the_same_from_every_format_in_every_unit_of_time(
    write: Any, given: list[dict[str, Any]], unit: str, piece_bytes: int
) -> None:
    given = [FULL, *given]
    reading = Reading(NAMED, {"kind": "KIND", "tag": "tag"}, unit if "%" in unit else "auto")
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A CSV file's piece must hold a row.
        patch.setattr(file_pieces, "PIECE_BYTES", max(piece_bytes, 400) if write is write_csv else piece_bytes)
        path = write(rows_of(given, unit), Path(folder))
        found = list(iter_records(path, reading))
        assert found == expected(given, unit)
        loaded = load_events([path], reading=reading)
        assert [loaded.users[u] for u in loaded.user] == [record["user_id"] for record in found]


@given(
    st.lists(st.datetimes(FIRST, LAST), min_size=1),
    st.sampled_from(["s", "ms", "us", "ns", "date32", "date64"]),
    st.sampled_from([None, "UTC", "Asia/Taipei"]),
)
def test_parquet_times_of_every_unit_are_the_instants_they_are(
    moments: list[datetime], unit: str, zone: str | None
) -> None:
    if unit == "ns":  # 64 bits of nanoseconds are 584 years
        moments = [moment.replace(year=1700 + moment.year % 500, day=min(moment.day, 28)) for moment in moments]
    if unit in {"date32", "date64"}:
        moments = [moment.replace(hour=0, minute=0, second=0, microsecond=0) for moment in moments]
    if unit == "s":
        moments = [moment.replace(microsecond=0) for moment in moments]
    kept_us = 1000 if unit == "ms" else 1
    us = [(moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=kept_us) * kept_us for moment in moments]
    kind = {"date32": pa.date32(), "date64": pa.date64()}.get(unit) or pa.timestamp(unit, zone)
    column = pa.array(us, pa.int64()).cast(pa.timestamp("us", None if unit.startswith("date") else zone)).cast(kind)
    names = [str(row) for row in range(len(us))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "e.parquet"
        table = pa.table({"user_id": names, "item_id": names, "ts": column})
        pyarrow.parquet.write_table(table, path, version="2.6")
        loaded = load_events([path])
    assert loaded.ts_ms.tolist() == sorted(each // 1000 for each in us)


@given(
    st.integers(SECONDS_MIN, MS_MIN - 1),
    st.integers(MS_MIN, 4_000_000_000_000).filter(lambda ms: not calendar_pattern(ms)),
)
def test_seconds_and_milliseconds_are_told_apart_by_the_first_row_and_never_mixed(s: int, ms: int) -> None:
    with TemporaryDirectory() as folder:
        for first, second in ((s, ms), (ms, s)):
            path = Path(folder) / "e.csv"
            path.write_text(f"user_id,item_id,ts\nu,i,{first}\nu,i,{second}\n")
            with pytest.raises(EventsFileError, match=f"ts={second} .*row=3"):
                load_events([path])


GOOD = [{"user_id": "u", "item_id": "i", "ts": 10**12 + row, "attributes": '{"a": "b"}'} for row in range(4)]


def valid_bytes(name: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "e.parquet"
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pa.Table.from_pylist(GOOD), path)
            return path.read_bytes()
    if "csv" in name:
        text = "user_id,item_id,ts,attributes\n" + 'u,i,1000000000001,"{""a"": ""b""}"\n' * 4
    else:
        text = "".join(json.dumps(row | {"attributes": {"a": "b"}}) + "\n" for row in GOOD)
    return gzip.compress(text.encode()) if name.endswith("gz") else text.encode()


VALID = {name: valid_bytes(name) for name in ("e.csv", "e.csv.gz", "e.jsonl", "e.jsonl.gz", "e.parquet")}


@pytest.mark.parametrize("name", VALID)
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_spoilt_files_are_read_or_refused_and_never_anything_else(name: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(VALID[name])
    for place, bytes_ in changes:
        at = place % len(data)
        data[at : at + len(bytes_)] = bytes_
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for read in (lambda: load_events([path]), lambda: load_labels(path, "item_id")):
            try:
                read()
            except EventsFileError as error:
                assert "\n" not in str(error)  # noqa: PT017 - either way is right
