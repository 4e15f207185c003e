"""Reading events from files: CSV, JSON lines (plain or ``.gz``) and Parquet, whole columns at a time.

A row is user_id and item_id (text), ts (`lurm_model.files.time_stamps`), optionally type (text) and attributes (an
object of texts or lists of texts; in CSV a column holding it as JSON). A `Reading` says which columns these are, and
which plain columns are attributes. Anything else is an `EventsFileError` naming the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lurm_model.events import Attributes
from lurm_model.files.file_pieces import refusals
from lurm_model.files.named_columns import read_pieces
from lurm_model.files.reading import AS_NAMED, Reading
from lurm_model.files.time_stamps import TimeStamps
from state.periods import Int64


@dataclass(frozen=True, slots=True)
class Columns:
    """A file's rows. **Shapes**: user_id, item_id and type are pyarrow strings, chunked or not, ts_ms int64[n]."""

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
            # Chunked, as one array holds no more than 2 GiB of texts.
            pa.chunked_array([part.user_id for part in parts], pa.string()),
            pa.chunked_array([part.item_id for part in parts], pa.string()),
            np.concatenate([np.zeros(0, np.int64), *(part.ts_ms for part in parts)]),
            pa.chunked_array(types, pa.string()) if types else None,
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
    path, clock = Path(path), TimeStamps(Path(path), reading.time_unit)
    with refusals(path):
        for piece in read_pieces(path, reading):
            columns = piece.columns
            ts_ms = clock.read(columns["ts"], piece.rows)
            yield Columns(columns["user_id"], columns["item_id"], ts_ms, columns.get("type"), piece.attributes)


def read_columns(path: Path, reading: Reading = AS_NAMED) -> Columns:
    """The rows of a file in its order, all at once. **Raises** `EventsFileError`: print it and stop."""
    return Columns.joined(list(read_parts(path, reading)))
