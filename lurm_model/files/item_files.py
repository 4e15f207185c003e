"""Reading items from files: CSV, JSON lines (plain or ``.gz``) and Parquet; a row is one item and its attributes.

A row is item_id (text) and attributes, as in a file of events, which is one of items too; a `Reading` may name other
columns. Anything else is an `EventsFileError` naming the row.
"""

from pathlib import Path

import pyarrow.compute as pc

from lurm_model.errors import EventsFileError
from lurm_model.events import Attributes
from lurm_model.files.file_pieces import check, refusals
from lurm_model.files.named_columns import read_pieces
from lurm_model.files.reading import ITEMS_AS_NAMED, Reading

ITEM_ID_BYTES_MAX = 256


def read_items(path: Path, reading: Reading = ITEMS_AS_NAMED) -> dict[str, Attributes]:
    """The items of a file and their attributes, {} where there are none; the last row that has some counts.

    **Raises** `EventsFileError`: print it and stop.
    """
    path = Path(path)
    items: dict[str, Attributes] = {}
    with refusals(path):
        for piece in read_pieces(path, reading):
            ids = piece.columns["item_id"]
            fits = pc.less_equal(pc.binary_length(ids), ITEM_ID_BYTES_MAX)
            check(path, fits, piece.rows, f"item_id is longer than {ITEM_ID_BYTES_MAX} bytes", item_id=ids)
            found = piece.attributes or [None] * len(piece.rows)
            for item, attributes in zip(ids.to_pylist(), found, strict=True):
                if attributes or item not in items:
                    items[item] = attributes or {}
    if not items:
        raise EventsFileError(f"there are no items in the file: file={path} row=1")
    return items
