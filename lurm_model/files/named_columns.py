"""The rows of a file, a piece at a time, its columns by the names that a `Reading` gives them.

A refusal names file and row, and the column as the file names it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from lurm_model.errors import EventsFileError
from lurm_model.files.attribute_columns import (
    Found,
    Values,
    from_json,
    from_objects,
    json_values,
    text_values,
    with_columns,
)
from lurm_model.files.file_pieces import (
    COLUMN_OPTIONS,
    CSV,
    JSON_LINES,
    Rows,
    check_columns,
    csv_pieces,
    decode,
    fields_of,
    kind_of,
    line_pieces,
    parquet_pieces,
    texts,
)
from lurm_model.files.ids import ids
from lurm_model.files.reading import REQUIRED, Reading

IDS = ("user_id", "item_id")
Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows. **Shapes**: columns are pyarrow arrays by target: ts as the file has it, the others strings."""

    columns: Mapping[str, Any]
    attributes: Found | None
    rows: Rows


def read_pieces(path: Path, reading: Reading) -> Iterator[Piece]:
    """The rows in the file's order; every id is there. **Raises** `EventsFileError`, within `refusals` nothing else."""
    kind = kind_of(path)
    yield from _from_lines(path, reading) if kind == JSON_LINES else _from_tables(path, reading, kind == CSV)


def _from_tables(path: Path, reading: Reading, is_csv: bool) -> Iterator[Piece]:
    sources = reading.sources

    def choose(names: Sequence[str]) -> list[str]:
        check_columns(path, reading.required, names)
        found = [name for name in (*sources.values(), *reading.attributes.values()) if name in names]
        check_columns(path, found, names)
        return list(dict.fromkeys(found))

    for table, rows in csv_pieces(path, choose, reading.delimiter) if is_csv else parquet_pieces(path, choose):
        columns: dict[str, Any] = {}
        for target, name in sources.items():
            if name not in table.column_names or target == "attributes":
                continue
            is_typed = target == "ts" and not is_csv
            columns[target] = table[name] if is_typed else _texts_of(path, target, table, name, rows)
        yield Piece(columns, _table_attributes(path, reading, table, rows), rows)


def _table_attributes(path: Path, reading: Reading, table: Any, rows: Rows) -> Found | None:
    name = reading.sources.get("attributes")
    own = None
    if name in table.column_names:
        column = table[name]
        is_text = pa.types.is_binary(column.type)
        own = from_json(path, column.to_pylist(), rows) if is_text else from_objects(path, column, rows)
    values = {each: _values_of(path, table, column, rows) for each, column in reading.attributes.items()}
    return with_columns(own, values)


def _values_of(path: Path, table: Any, name: str, rows: Rows) -> list[Values]:
    is_list = pa.types.is_list(table[name].type) or pa.types.is_large_list(table[name].type)
    return text_values(table[name] if is_list else texts(path, table, name, rows))


def _from_lines(path: Path, reading: Reading) -> Iterator[Piece]:
    kinds, optional = _field_kinds(reading), _optional(reading)
    decoder = _line_decoder(kinds, optional)
    never: set[str] = set(reading.required)
    names: list[str] = []
    for lines, rows in line_pieces(path):
        if not names:
            names = fields_of(lines[0], path, rows[0])
            check_columns(path, [name for name in kinds if name not in optional], names, rows[0])
        records = [decode(decoder, line, path, row) for line, row in zip(lines, rows, strict=True)]
        fields = {name: [getattr(each, f"f{place}") for each in records] for place, name in enumerate(kinds)}
        never -= {name for name in never if any(not _is_absent(value) for value in fields[name])}
        yield _line_piece(path, reading, fields, rows)
    if never and names:
        have = f"file={path} row=1 have={','.join(names)}; say which it is with {COLUMN_OPTIONS}"
        raise EventsFileError(f"column is missing in every line: missing={','.join(sorted(never))} {have}")


def _line_decoder(kinds: Mapping[str, Any], optional: set[str]) -> msgspec.json.Decoder[Any]:
    """A decoder of these fields of a line; any name may be a field's, so attributes are f0, f1, ..."""
    described: list[Any] = []
    for place, (name, kind) in enumerate(kinds.items()):
        absent = msgspec.Raw() if kind is msgspec.Raw else None
        described.append((f"f{place}", kind, absent) if name in optional else (f"f{place}", kind))
    names = {f"f{place}": name for place, name in enumerate(kinds)}
    return msgspec.json.Decoder(msgspec.defstruct("Record", described, rename=names, gc=False, kw_only=True))


def _field_kinds(reading: Reading) -> dict[str, Any]:
    """The types of the fields wanted of a line; a column that was mapped may hold its texts as numbers."""
    kinds: dict[str, Any] = {}
    for target, name in reading.sources.items():
        text = str | int if target in reading.columns else str
        kinds[name] = {"ts": Number | str, "type": text | None, "attributes": msgspec.Raw}.get(target, text)
    return kinds | {name: msgspec.Raw for name in reading.attributes.values() if name not in kinds}


def _optional(reading: Reading) -> set[str]:
    """The fields that a line may lack."""
    needed = {reading.sources.get(target, target) for target in REQUIRED}
    return (set(reading.sources.values()) | set(reading.attributes.values())) - needed


def _line_piece(path: Path, reading: Reading, fields: Mapping[str, list[Any]], rows: Rows) -> Piece:
    columns: dict[str, Any] = {}
    for target, name in reading.sources.items():
        if target == "ts" and all(isinstance(value, int) for value in fields[name]):
            columns[target] = pa.array(fields[name], pa.int64())
        elif target != "attributes":
            columns[target] = _texts_of(path, target, pa.table({name: _as_texts(fields[name])}), name, rows)
    raw = fields.get(reading.sources.get("attributes", ""))
    own = from_json(path, [_raw(value) for value in raw], rows) if raw else None
    values = {
        each: json_values(path, name, [_raw(value) for value in fields[name]], rows)
        for each, name in reading.attributes.items()
    }
    return Piece(columns, with_columns(own, values), rows)


def _texts_of(path: Path, target: str, table: Any, name: str, rows: Rows) -> Any:
    return (ids if target in IDS else texts)(path, table, name, rows)


def _as_texts(values: Sequence[Any]) -> Any:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and not bytes(value))


def _raw(value: Any) -> bytes:
    """The JSON of a field; another target may have decoded it already."""
    if isinstance(value, msgspec.Raw):
        return bytes(value) or b"null"
    return msgspec.json.encode(value)
