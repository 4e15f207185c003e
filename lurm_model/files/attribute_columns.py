"""Attributes of items as files have them: a column of objects or JSON texts, or plain columns, one value each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lurm_model.events import Attributes
from lurm_model.files.file_pieces import Rows, decode, one_line, refuse
from lurm_model.interests.codebook import WrittenAttributes

Found = list[Attributes | None]
# What a row has in a column that becomes an attribute: none, one or several texts.
Values = tuple[str, ...]
T = TypeVar("T")


def from_json(path: Path, texts: Sequence[bytes], rows: Rows) -> Found:
    """Attributes from JSON texts, "" or null where there are none; each different text is decoded once."""
    decoder = msgspec.json.Decoder(WrittenAttributes | None)

    def make(text: bytes, row: int) -> Attributes | None:
        return (_lists(decode(decoder, text, path, row, "attributes: ") or {}) or None) if text else None

    return _each_once(make, texts, rows)


def from_objects(path: Path, column: Any, rows: Rows) -> Found:
    """Attributes from a Parquet column of structs, maps or JSON texts; equal ones are one object."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return from_json(path, pc.fill_null(column.cast(pa.binary()), b"").to_pylist(), rows)
    if not (pa.types.is_struct(column.type) or pa.types.is_map(column.type) or pa.types.is_null(column.type)):
        refuse(path, rows[0] if len(rows) else 1, "attributes must be objects or JSON texts", type=column.type)
    attributes: Found = []
    known: dict[str, Attributes | None] = {}
    for row, value in zip(rows, column.to_pylist(), strict=True):
        try:
            found = _lists(msgspec.convert(dict(value or {}), WrittenAttributes)) or None
        except msgspec.ValidationError as error:
            refuse(path, row, f"attributes: {one_line(error)}")
        attributes.append(known.setdefault(repr(found), found))
    return attributes


def text_values(column: Any) -> list[Values]:
    """A column of texts, numbers or lists of them, as a CSV or Parquet file has it."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return [(text,) if text else () for text in column.cast(pa.string()).to_pylist()]
    return [tuple(text for text in found or () if text) for found in column.cast(pa.list_(pa.string())).to_pylist()]


def json_values(path: Path, name: str, texts: Sequence[bytes], rows: Rows) -> list[Values]:
    """A column of JSON values, each different text decoded once."""
    decoder = msgspec.json.Decoder(str | int | float | bool | list[str] | None)
    return _each_once(lambda text, row: _values(decode(decoder, text, path, row, f"{name}: ")), texts, rows)


def with_columns(attributes: Found | None, columns: Mapping[str, Sequence[Values]]) -> Found | None:
    """Attributes with those of these columns over them; equal ones are one object, what is empty is left out."""
    if not columns:
        return attributes
    joined: Found = []
    known: dict[tuple[object, ...], Attributes | None] = {}
    for index, row in enumerate(zip(*columns.values(), strict=True)):
        base = attributes[index] if attributes else None
        key = (id(base), *row)
        if key not in known:
            own = {name: list(values) for name, values in zip(columns, row, strict=True) if values}
            known[key] = {**(base or {}), **own} or None
        joined.append(known[key])
    return joined


def _each_once(make: Callable[[bytes, int], T], texts: Sequence[bytes], rows: Rows) -> list[T]:
    made: dict[bytes, T] = {}
    for row, text in zip(rows, texts, strict=True):
        if text not in made:
            made[text] = make(text, row)
    return [made[text] for text in texts]


def _values(value: str | float | bool | list[str] | None) -> Values:
    if isinstance(value, list):
        return tuple(text for text in value if text)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return (text,) if text and value is not None else ()


def _lists(attributes: WrittenAttributes) -> Attributes:
    return {key: [value] if isinstance(value, str) else value for key, value in attributes.items() if value is not None}
