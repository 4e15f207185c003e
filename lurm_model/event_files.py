"""Reading events from files: CSV, JSON lines (plain or ``.gz``) and Parquet, whole columns at a time.

A row is user_id and item_id (text), ts (`lurm_model.time_stamps`), optionally type (text) and attributes (an object of
texts or lists of texts; in CSV a column holding it as JSON). A `Reading` says which columns these are, and which plain
columns are attributes. Anything else is an `EventsFileError` naming the row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lurm_model.attribute_columns import (
    Found,
    Values,
    from_json,
    from_objects,
    json_values,
    text_values,
    with_columns,
)
from lurm_model.errors import EventsFileError
from lurm_model.events import Attributes
from lurm_model.file_pieces import (
    CSV,
    JSON_LINES,
    Rows,
    check_columns,
    csv_pieces,
    decode,
    fields_of,
    filled_texts,
    kind_of,
    line_pieces,
    parquet_pieces,
    refusals,
    texts,
)
from lurm_model.reading import AS_NAMED, REQUIRED, Reading
from lurm_model.time_stamps import TimeStamps
from state.periods import Int64

Number = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


@dataclass(frozen=True, slots=True)
class Columns:
    """A file's rows. **Shapes**: user_id, item_id and type are pyarrow string arrays, ts_ms int64[n]."""

    user_id: Any
    item_id: Any
    ts_ms: Int64
    type: Any | None
    attributes: list[Attributes | None] | None

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """All rows of these parts of one file, which has the same columns throughout."""
        if len(parts) == 1:
            return parts[0]
        attributes = [part.attributes for part in parts if part.attributes is not None]
        types = [part.type for part in parts if part.type is not None]
        return cls(
            pa.chunked_array([part.user_id for part in parts], pa.string()).combine_chunks(),
            pa.chunked_array([part.item_id for part in parts], pa.string()).combine_chunks(),
            np.concatenate([np.zeros(0, np.int64), *(part.ts_ms for part in parts)]),
            pa.chunked_array(types, pa.string()).combine_chunks() if types else None,
            list(chain.from_iterable(attributes)) if attributes else None,
        )

    def where(self, chosen: NDArray[np.bool_]) -> "Columns":
        """The chosen rows."""
        mask, attributes = pa.array(chosen), self.attributes
        return Columns(
            self.user_id.filter(mask),
            self.item_id.filter(mask),
            self.ts_ms[chosen],
            None if self.type is None else self.type.filter(mask),
            None if attributes is None else [attributes[row] for row in np.flatnonzero(chosen).tolist()],
        )


def read_parts(path: Path, reading: Reading = AS_NAMED) -> Iterator[Columns]:
    """The rows of a file in its order, a piece at a time: it may be larger than memory.

    **Raises** `EventsFileError`: print it and stop.
    """
    path = Path(path)
    kind = kind_of(path)
    with refusals(path):
        yield from _from_lines(path, reading) if kind == JSON_LINES else _from_tables(path, reading, kind == CSV)


def read_columns(path: Path, reading: Reading = AS_NAMED) -> Columns:
    """The rows of a file in its order, all at once. **Raises** `EventsFileError`: print it and stop."""
    return Columns.joined(list(read_parts(path, reading)))


def _from_tables(path: Path, reading: Reading, is_csv: bool) -> Iterator[Columns]:
    sources, clock = reading.sources, TimeStamps(path, reading.time_unit)

    def choose(names: Sequence[str]) -> list[str]:
        check_columns(path, reading.required, names)
        found = [name for name in (*sources.values(), *reading.attributes.values()) if name in names]
        check_columns(path, found, names)
        return list(dict.fromkeys(found))

    for table, rows in (csv_pieces if is_csv else parquet_pieces)(path, choose):
        there = {target: name for target, name in sources.items() if name in table.column_names}
        ts = texts(path, table, there["ts"], rows) if is_csv else table[there["ts"]]
        yield Columns(
            filled_texts(path, table, there["user_id"], rows),
            filled_texts(path, table, there["item_id"], rows),
            clock.read(ts, rows),
            texts(path, table, there["type"], rows) if "type" in there else None,
            _table_attributes(path, reading, table, rows),
        )


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


def _from_lines(path: Path, reading: Reading) -> Iterator[Columns]:
    kinds, optional, clock = _field_kinds(reading), _optional(reading), TimeStamps(path, reading.time_unit)
    decoder = _line_decoder(kinds, optional)
    never: set[str] = set(reading.required)
    names: list[str] = []
    for lines, rows in line_pieces(path):
        if not names:
            names = fields_of(lines[0], path, rows[0])
            check_columns(path, [name for name in kinds if name not in optional], names, rows[0])
        records = [decode(decoder, line, path, row) for line, row in zip(lines, rows, strict=True)]
        columns = {name: [getattr(each, f"f{place}") for each in records] for place, name in enumerate(kinds)}
        never -= {name for name in never if any(not _is_absent(value) for value in columns[name])}
        yield _line_columns(path, reading, clock, columns, rows)
    if never and names:
        have = f"file={path} row=1 have={','.join(names)}"
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


def _line_columns(
    path: Path, reading: Reading, clock: TimeStamps, columns: Mapping[str, list[Any]], rows: Rows
) -> Columns:
    sources = reading.sources
    table = pa.table({target: _as_texts(columns[sources[target]]) for target in ("user_id", "item_id")})
    ts = columns[sources["ts"]]
    numbers = all(isinstance(value, int) for value in ts)
    raw = columns.get(sources.get("attributes", ""))
    own = from_json(path, [_raw(value) for value in raw], rows) if raw else None
    values = {
        each: json_values(path, name, [_raw(value) for value in columns[name]], rows)
        for each, name in reading.attributes.items()
    }
    return Columns(
        filled_texts(path, table, "user_id", rows),
        filled_texts(path, table, "item_id", rows),
        clock.read(pa.array(ts, pa.int64()) if numbers else _as_texts(ts), rows),
        _as_texts(columns[sources["type"]]) if "type" in sources else None,
        with_columns(own, values),
    )


def _as_texts(values: Sequence[Any]) -> Any:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and not bytes(value))


def _raw(value: Any) -> bytes:
    """The JSON of a field; another target may have decoded it already."""
    if isinstance(value, msgspec.Raw):
        return bytes(value) or b"null"
    return msgspec.json.encode(value)
