"""Reading what is known of users beside their events: a file with user_id and a column per label."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lurm_model.errors import EventsFileError
from lurm_model.events import UserLabels


def load_labels(path: Path) -> UserLabels:
    """The labels in a ``.csv``, ``.jsonl`` or ``.parquet`` file, every value as text.

    **Raises** `EventsFileError`: print it and stop.
    """
    path = Path(path)
    try:
        table = _read(path)
    except OSError as error:
        raise EventsFileError(f"cannot read the file: file={path} reason={error.strerror or error}") from error
    except pa.ArrowException as error:
        raise EventsFileError(f"cannot read the file: file={path} reason={' '.join(str(error).split())}") from error
    if "user_id" not in table.column_names or len(table.column_names) < 2:
        raise EventsFileError(f"need user_id and a label: file={path} row=1 have={','.join(table.column_names)}")
    columns = {name: _texts(path, name, table[name]) for name in table.column_names}
    return UserLabels(columns.pop("user_id"), columns)


def _read(path: Path) -> Any:
    if path.suffix == ".csv":
        names = pyarrow.csv.open_csv(path).schema.names
        options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        return pyarrow.csv.read_csv(path, convert_options=options)
    if path.suffix in {".jsonl", ".ndjson"}:
        return pyarrow.json.read_json(path)
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    raise EventsFileError(f"unknown kind of file, use one of .csv, .jsonl, .parquet: file={path}")


def _texts(path: Path, name: str, column: Any) -> list[str]:
    if pa.types.is_nested(column.type):
        raise EventsFileError(f"a label must be a single value: file={path} row=1 column={name}")
    return ["" if value is None else str(value) for value in column.to_pylist()]
