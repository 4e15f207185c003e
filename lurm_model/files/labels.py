"""Reading what is known of users beside their events: a file with user_id and a column per label."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from lurm_model.errors import EventsFileError
from lurm_model.events import UserLabels
from lurm_model.files.file_pieces import (
    CSV,
    JSON_LINES,
    check_columns,
    csv_pieces,
    decode,
    fields_of,
    kind_of,
    line_pieces,
    parquet_pieces,
    refusals,
    refuse,
    texts,
)
from lurm_model.files.ids import ids

Value = str | int | float | bool | None
_OPTION = "--users-id"
# A user's row in the file, and texts by column.
Row = tuple[int, dict[str, str]]


def load_labels(path: Path, user_id: str = "user_id", delimiter: str = ",") -> UserLabels:
    """The labels in a ``.csv``, ``.jsonl`` (also ``.gz``) or ``.parquet`` file, every value as text.

    ``user_id`` is the column that names the user, once each.

    **Raises** `EventsFileError`: print it and stop.
    """
    path = Path(path)
    kind = kind_of(path)
    rows: dict[str, int] = {}
    found: list[dict[str, str]] = []
    with refusals(path):
        for row, label in _from_lines(path, user_id) if kind == JSON_LINES else _from_tables(path, user_id, delimiter):
            user = label.pop(user_id)
            if not user:
                refuse(path, row, f"{user_id} is empty")
            if (first := rows.setdefault(user, row)) != row:
                refuse(path, row, "a user stands twice, keep one row of each", user=user, first_row=first)
            found.append(label)
    names = list(dict.fromkeys(name for label in found for name in label))
    if not names:
        raise EventsFileError(f"no labels, need a row per user and a column beside {user_id}: file={path} row=1")
    return UserLabels(list(rows), {name: [label.get(name, "") for label in found] for name in names})


def _from_tables(path: Path, user_id: str, delimiter: str) -> Iterator[Row]:
    def choose(names: Sequence[str]) -> Sequence[str]:
        check_columns(path, [user_id, *names], names, options=_OPTION)
        return names

    is_csv = kind_of(path) == CSV
    for table, rows in csv_pieces(path, choose, delimiter) if is_csv else parquet_pieces(path, choose):
        readers = {name: ids if name == user_id else texts for name in table.column_names}
        columns = {name: read(path, table, name, rows).to_pylist() for name, read in readers.items()}
        for row, values in zip(rows, zip(*columns.values(), strict=True), strict=True):
            yield row, dict(zip(columns, [value or "" for value in values], strict=True))


def _from_lines(path: Path, user_id: str) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Value])
    for lines, rows in line_pieces(path):
        labels: list[dict[str, str]] = []
        for line, row in zip(lines, rows, strict=True):
            found = decode(decoder, line, path, row)
            if user_id not in found:
                check_columns(path, [user_id], fields_of(line, path, row), row, _OPTION)
            labels.append({name: "" if value is None else str(value) for name, value in found.items()})
        users = ids(path, pa.table({user_id: [label[user_id] for label in labels]}), user_id, rows).to_pylist()
        for row, label, user in zip(rows, labels, users, strict=True):
            yield row, label | {user_id: user}
