"""Reading items from files: CSV, JSON lines (plain or ``.gz``) and Parquet; a row is one item and its attributes.

A row is item_id (text) and attributes (an object of texts or lists of texts; in CSV a column holding it as JSON).
Other columns are ignored, so a file of events is one of items too. Anything else is an `ItemsFileError` naming the row.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lurm_model.errors import ItemsFileError
from lurm_model.events import Attributes

ITEM_ID_BYTES_MAX = 256
COLUMNS = ("item_id", "attributes")
_BATCH_ROWS = 65_536

# The row's number in its file, its item, and its attributes as they stand there.
_Row = tuple[int, Any, Any]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ITEM_ID_BYTES_MAX)]
_Raw = dict[str, str | list[str] | None]


class _Line(msgspec.Struct, gc=False):
    item_id: Any
    attributes: Any = None


def read_items(path: Path) -> dict[str, Attributes]:
    """The items of a file and their attributes, {} where there are none; the last row that has some counts.

    **Raises** `ItemsFileError`: print it and stop.
    """
    path = Path(path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise ItemsFileError(f"unknown kind of file, use one of {', '.join(_READERS)} (or .gz of text): file={path}")
    items: dict[str, Attributes] = {}
    try:
        for row, item, value in reader(path):
            name, attributes = _checked(path, row, item, value)
            if attributes or name not in items:
                items[name] = attributes
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ItemsFileError(f"cannot read the file: file={path} reason={reason}") from error
    except pa.ArrowException as error:
        raise ItemsFileError(f"cannot read the file: file={path} reason={_one_line(error)}") from error
    if not items:
        raise ItemsFileError(f"there are no items in the file: file={path}")
    return items


def _read_csv(path: Path) -> Iterator[_Row]:
    with pyarrow.csv.open_csv(path) as head:
        wanted = _wanted(path, head.schema.names)
    types = dict.fromkeys(wanted, pa.string())
    options = pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=types, strings_can_be_null=False)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(path, parse_options=parse, convert_options=options) as batches:
        yield from _rows(batches, 2)


def _read_parquet(path: Path) -> Iterator[_Row]:
    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = _wanted(path, file.schema_arrow.names)
        yield from _rows(file.iter_batches(_BATCH_ROWS, columns=wanted), 1)


def _rows(batches: Iterable[Any], first_row: int) -> Iterator[_Row]:
    row = first_row
    for batch in batches:
        for item, attributes in zip(*(batch[name].to_pylist() for name in COLUMNS), strict=True):
            # Arrow's maps are lists of pairs.
            yield row, item, dict(attributes) if isinstance(attributes, list) else attributes
            row += 1


def _read_json_lines(path: Path) -> Iterator[_Row]:
    decode = msgspec.json.Decoder(_Line).decode
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for row, line in enumerate(file, 1):
            if line.strip():
                try:
                    read = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    raise _refusal(path, row, _one_line(error)) from error
                yield row, read.item_id, read.attributes


_READERS: dict[str, Callable[[Path], Iterator[_Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _wanted(path: Path, names: list[str]) -> list[str]:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ItemsFileError(f"column is missing: file={path} row=1 missing={','.join(missing)} have={','.join(names)}")
    return list(COLUMNS)


def _checked(path: Path, row: int, item: Any, value: Any) -> tuple[str, Attributes]:
    try:
        name = msgspec.convert(item, _Id)
        if len(name.encode()) > ITEM_ID_BYTES_MAX:
            raise _refusal(path, row, f"item_id is longer than {ITEM_ID_BYTES_MAX} bytes")
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _refusal(path, row, f"item_id: {_one_line(error)}") from error
    if value is None or value == "":
        return name, {}
    try:
        found = msgspec.json.decode(value, type=_Raw) if isinstance(value, str) else msgspec.convert(value, _Raw)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise _refusal(path, row, f"attributes: {_one_line(error)}") from error
    return name, {key: [text] if isinstance(text, str) else text for key, text in found.items() if text is not None}


def _refusal(path: Path, row: int, reason: str) -> ItemsFileError:
    return ItemsFileError(f"{reason}: file={path} row={row}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
