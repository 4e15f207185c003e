"""Reading events from files: CSV, JSON lines (plain or ``.gz``) and Parquet, whole columns at a time.

A row is user_id and item_id (text), ts (integer, Unix milliseconds), optionally type (text) and attributes (an object
of texts or lists of texts; in CSV a column holding it as JSON). Anything else is an `EventsFileError` naming the row.
"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from lurm_model.errors import EventsFileError
from lurm_model.events import Attributes
from state.periods import TS_MS_MAX, TS_MS_MIN, Int64

REQUIRED = ("user_id", "item_id", "ts")
OPTIONAL = ("type", "attributes")


class Record(msgspec.Struct, gc=False):
    """One line of a JSON lines file; unknown fields are ignored, attributes are decoded once per different text."""

    user_id: str
    item_id: str
    ts: int
    type: str | None = None
    attributes: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class Columns:
    """A file's rows. **Shapes**: user_id and item_id are pyarrow string arrays, ts_ms int64[n], the others lists."""

    user_id: Any
    item_id: Any
    ts_ms: Int64
    type: list[str | None] | None
    attributes: list[Attributes | None] | None

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """All rows of these parts of one file, which has the same columns throughout."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            pa.chunked_array([part.user_id for part in parts], pa.string()).combine_chunks(),
            pa.chunked_array([part.item_id for part in parts], pa.string()).combine_chunks(),
            np.concatenate([np.zeros(0, np.int64), *(part.ts_ms for part in parts)]),
            _chained([part.type for part in parts]),
            _chained([part.attributes for part in parts]),
        )

    def where(self, chosen: NDArray[np.bool_]) -> "Columns":
        """The chosen rows."""
        mask, rows = pa.array(chosen), np.flatnonzero(chosen).tolist()
        texts, attributes = self.type, self.attributes
        return Columns(
            self.user_id.filter(mask),
            self.item_id.filter(mask),
            self.ts_ms[chosen],
            None if texts is None else [texts[row] for row in rows],
            None if attributes is None else [attributes[row] for row in rows],
        )


def read_parts(path: Path) -> Iterator[Columns]:
    """The rows of a file in its order, a Parquet file one row group at a time: it may be larger than memory.

    **Raises** `EventsFileError`: print it and stop.
    """
    path = Path(path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    reader = READERS.get(suffix.lower())
    if reader is None:
        raise EventsFileError(f"unknown kind of file, use one of {', '.join(READERS)} (or .gz of text): file={path}")
    with _refusals(path):
        yield from reader(path)


def read_columns(path: Path) -> Columns:
    """The rows of a file in its order, all at once. **Raises** `EventsFileError`: print it and stop."""
    return Columns.joined(list(read_parts(path)))


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being read, in one line."""
    try:
        yield
    except OSError as error:
        raise EventsFileError(f"cannot read the file: file={path} reason={error.strerror or error}") from error
    except pa.ArrowException as error:
        raise EventsFileError(f"cannot read the file: file={path} reason={_one_line(error)}") from error


def _read_csv(path: Path) -> Iterator[Columns]:
    header = pyarrow.csv.open_csv(path).schema.names
    _check_columns(path, header)
    wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in header]
    options = pyarrow.csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=options).combine_chunks()
    digits = pc.match_substring_regex(table["ts"], r"^-?[0-9]{1,18}$")
    _check(path, digits, 2, lambda row: f"ts is not an integer: {table['ts'][row].as_py()!r}")
    yield Columns(
        _texts(path, table, "user_id", 2),
        _texts(path, table, "item_id", 2),
        _times(path, table["ts"].cast(pa.int64()), 2),
        [text or None for text in table["type"].to_pylist()] if "type" in wanted else None,
        _json_attributes(path, table["attributes"], 2) if "attributes" in wanted else None,
    )


def _read_parquet(path: Path) -> Iterator[Columns]:
    names = pyarrow.parquet.read_schema(path).names
    _check_columns(path, names)
    wanted, row = [name for name in (*REQUIRED, *OPTIONAL) if name in names], 1
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=wanted)
            yield _parquet_columns(path, table, row)
            row += len(table)


def _parquet_columns(path: Path, table: Any, row: int) -> Columns:
    if not pa.types.is_integer(table["ts"].type):
        _refuse(path, 1, f"ts must be an integer, Unix milliseconds, the column is {table['ts'].type}")
    return Columns(
        _texts(path, table, "user_id", row),
        _texts(path, table, "item_id", row),
        _times(path, table["ts"].cast(pa.int64()), row),
        table["type"].cast(pa.string()).to_pylist() if "type" in table.column_names else None,
        _object_attributes(path, table["attributes"], row) if "attributes" in table.column_names else None,
    )


def _read_json_lines(path: Path) -> Iterator[Columns]:
    decoder = msgspec.json.Decoder(Record)
    records, rows = [], []
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for row, line in enumerate(file, 1):
            if line.strip():
                records.append(_decode(decoder, line, path, row))
                rows.append(row)
    table = pa.table({name: [getattr(record, name) for record in records] for name in REQUIRED}, schema=_JSON_SCHEMA)
    yield Columns(
        _texts(path, table, "user_id", rows),
        _texts(path, table, "item_id", rows),
        table["ts"].to_numpy(),
        [record.type for record in records],
        _raw_attributes(path, [bytes(record.attributes) for record in records], rows),
    )


_JSON_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("ts", pa.int64())])
READERS: dict[str, Callable[[Path], Iterator[Columns]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _decode(decoder: msgspec.json.Decoder[Record], line: bytes, path: Path, row: int) -> Record:
    try:
        record = decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _refuse(path, row, _one_line(error))
    if not TS_MS_MIN <= record.ts <= TS_MS_MAX:
        _refuse(path, row, f"ts is no date in Unix milliseconds: {record.ts}")
    return record


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise EventsFileError(
            f"column is missing: file={path} row=1 missing={','.join(missing)} have={','.join(names)}"
        )


def _texts(path: Path, table: Any, name: str, first_row: int | list[int]) -> Any:
    column = table[name].cast(pa.string())
    filled = pc.fill_null(pc.greater(pc.binary_length(column), 0), False)
    _check(path, filled, first_row, lambda _: f"{name} is empty")
    return column.combine_chunks()


def _times(path: Path, column: Any, first_row: int | list[int]) -> Int64:
    valid = pc.and_(pc.greater_equal(column, TS_MS_MIN), pc.less_equal(column, TS_MS_MAX))
    _check(path, valid, first_row, lambda row: f"ts is no date in Unix milliseconds: {column[row].as_py()}")
    return np.asarray(column.to_numpy(), np.int64)


def _check(path: Path, valid: Any, first_row: int | list[int], reason: Callable[[int], str]) -> None:
    """Refuse the first row that is not valid; nulls are not valid."""
    bad = np.flatnonzero(~pc.fill_null(valid, False).to_numpy().astype(bool))
    if len(bad):
        index = int(bad[0])
        row = first_row[index] if isinstance(first_row, list) else first_row + index
        _refuse(path, row, reason(index))


def _refuse(path: Path, row: int, reason: str) -> NoReturn:
    raise EventsFileError(f"{reason}: file={path} row={row}")


def _raw_attributes(path: Path, texts: list[bytes], rows: list[int]) -> list[Attributes | None]:
    """Attributes from JSON texts or nulls; each different text is decoded once."""
    decoder = msgspec.json.Decoder(dict[str, str | list[str]] | None)
    decoded: dict[bytes, Attributes | None] = {}
    for row, text in zip(rows, texts, strict=True):
        if text not in decoded:
            try:
                decoded[text] = _lists(decoder.decode(text) or {}) or None
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                _refuse(path, row, f"attributes: {_one_line(error)}")
    return [decoded[text] for text in texts]


def _json_attributes(path: Path, column: Any, first_row: int) -> list[Attributes | None]:
    """Attributes from a column of JSON texts; each different text is decoded once."""
    encoded = column.combine_chunks().dictionary_encode()
    indices = encoded.indices.to_numpy()
    decoder = msgspec.json.Decoder(dict[str, str | list[str]])
    decoded: list[Attributes | None] = []
    for text in encoded.dictionary.to_pylist():
        try:
            decoded.append(_lists(decoder.decode(text)) if text else None)
        except msgspec.MsgspecError as error:
            row = first_row + int(np.flatnonzero(indices == len(decoded))[0])
            _refuse(path, row, f"attributes: {_one_line(error)}")
    return [decoded[index] for index in indices.tolist()]


def _object_attributes(path: Path, column: Any, first_row: int) -> list[Attributes | None]:
    """Attributes from a Parquet column of structs, maps or JSON texts; equal ones are one object."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _json_attributes(path, pc.fill_null(column.cast(pa.string()), ""), first_row)
    attributes: list[Attributes | None] = []
    known: dict[str, Attributes | None] = {}
    for row, value in enumerate(column.to_pylist(), first_row):
        pairs = {} if value is None else {k: v for k, v in dict(value).items() if v is not None}
        try:
            found = _lists(msgspec.convert(pairs, dict[str, str | list[str]])) or None
        except msgspec.ValidationError as error:
            _refuse(path, row, f"attributes: {_one_line(error)}")
        attributes.append(known.setdefault(repr(found), found))
    return attributes


def _chained(parts: list[list[Any] | None]) -> list[Any] | None:
    there = [part for part in parts if part is not None]
    return list(chain.from_iterable(there)) if there else None


def _lists(attributes: dict[str, str | list[str]]) -> Attributes:
    return {key: [value] if isinstance(value, str) else value for key, value in attributes.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
