"""What a record of the embeddings topic looks like, for whoever writes and whoever reads it.

Key: the user id. Value: the M x H matrix, little-endian float32 or float16, row-major; null for an erased user. All
else is in the headers, as UTF-8 text with numbers in decimal, so that a record can be read without decoding it.

Anybody who may write to the topic may put something else there. No reader ends at it, since it would end there at every
start: `Foreign` counts such records and says where they stand.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from state.errors import FormatUnknown
from state.periods import Int64
from stream.printable import printable
from stream.records.outgoing import Outgoing

logger = logging.getLogger("lurm")

FORMAT = "1"
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
Vectors = NDArray[np.float32] | NDArray[np.float16]
Headers = list[tuple[str, bytes]]

_FORMAT_HEADER = "lurm-format"


class Record(Protocol):
    """A record of any Kafka client."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Encoded(Protocol):
    """A batch of encoded users. **Shapes**: vectors float32[n, M, H], seq and event_time_ms int64[n]."""

    @property
    def users(self) -> Sequence[bytes]: ...  # noqa: D102 - described above
    @property
    def vectors(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def seq(self) -> Int64: ...  # noqa: D102
    @property
    def event_time_ms(self) -> Int64: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One user's vectors, [M, H], after all events up to ``seq``; comparable with others of its ``space_id`` only."""

    user_id: str
    vectors: Vectors
    seq: int
    model_id: str
    space_id: str
    partition: int
    event_time_ms: int
    encoded_at_ms: int

    @property
    def norm(self) -> float:
        """The Euclidean length of all the vectors together."""
        return float(np.linalg.norm(self.vectors.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class Erased:
    """The user was erased: forget the embedding."""

    user_id: str


def encode_value(vectors: NDArray[np.float32], dtype: str) -> bytes:
    """One user's record value. **Shapes**: vectors [M, H]."""
    return vectors.astype(DTYPES[dtype]).tobytes()


def shared_headers(model_id: str, space_id: str, shape: tuple[int, int], dtype: str) -> Headers:
    """The headers that all users of a model have in common, built once."""
    texts = {
        _FORMAT_HEADER: FORMAT,
        "model_id": model_id,
        "space_id": space_id,
        "shape": f"{shape[0]},{shape[1]}",
        "dtype": dtype,
    }
    return [(name, text.encode()) for name, text in texts.items()]


def headers_of(shared: Headers, partition: int, encoded_at_ms: int, seq: Int64, event_time_ms: Int64) -> list[Headers]:
    """The headers of a batch of users. **Shapes**: seq and event_time_ms int64[n]."""
    common = [*shared, ("partition", b"%d" % partition), ("encoded_at_ms", b"%d" % encoded_at_ms)]
    pairs = zip(seq.tolist(), event_time_ms.tolist(), strict=True)
    return [[*common, ("seq", b"%d" % number), ("event_time_ms", b"%d" % ms)] for number, ms in pairs]


class EmbeddingWriter:
    """Makes the records of one model."""

    def __init__(self, model_id: str, space_id: str, dtype: str) -> None:
        self._ids = (model_id, space_id)
        self._dtype = dtype
        self._shared: dict[tuple[int, int], Headers] = {}

    def are_numbers(self, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which users' vectors are finite in the records' format, bool[n]. **Shapes**: vectors [n, M, H]."""
        with np.errstate(over="ignore"):
            is_number = np.isfinite(vectors.astype(DTYPES[self._dtype], copy=False))
        good: NDArray[np.bool_] = is_number.all(axis=(1, 2))
        return good

    def records(self, partition: int, encoded: Encoded, encoded_at_ms: int) -> list[Outgoing]:
        """The records of a batch of users of one partition."""
        shape = (int(encoded.vectors.shape[1]), int(encoded.vectors.shape[2]))
        if shape not in self._shared:
            self._shared[shape] = shared_headers(*self._ids, shape, self._dtype)
        headers = headers_of(self._shared[shape], partition, encoded_at_ms, encoded.seq, encoded.event_time_ms)
        vectors = encoded.vectors.astype(DTYPES[self._dtype])
        values = [each.tobytes() for each in vectors]
        return [Outgoing(*record) for record in zip(encoded.users, values, headers, strict=True)]


def decode(record: Record) -> Embedding | Erased:
    """What a record of the embeddings topic says.

    **Raises** `FormatUnknown` when it is of another format, or none of ours.
    """
    headers = {name: value or b"" for name, value in record.headers}
    found = headers.get(_FORMAT_HEADER, b"none").decode(errors="replace")
    if not record.key:
        raise FormatUnknown("a record without a key is nobody's")
    try:
        user_id = record.key.decode()
        if record.value is None:
            return Erased(user_id)
        if found != FORMAT:
            raise FormatUnknown(
                f"an embedding has an unknown format; upgrade this reader: format={found} known={FORMAT}"
            )
        return Embedding(
            user_id=user_id,
            vectors=_vectors(record.value, headers),
            seq=_number(headers["seq"]),
            model_id=headers["model_id"].decode(),
            space_id=headers["space_id"].decode(),
            partition=_number(headers["partition"]),
            event_time_ms=_number(headers["event_time_ms"]),
            encoded_at_ms=_number(headers["encoded_at_ms"]),
        )
    except (KeyError, ValueError) as error:
        raise FormatUnknown(f"an embedding contradicts its headers: key={record.key!r} problem={error}") from error


def _vectors(value: bytes, headers: Mapping[str, bytes]) -> Vectors:
    rows, columns = map(int, headers["shape"].split(b","))
    if rows < 0 or columns < 0:
        raise ValueError("a negative shape")
    return np.frombuffer(value, DTYPES[headers["dtype"].decode()]).reshape(rows, columns)


def _number(text: bytes) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a number of more than 64 bits")
    return number


class Foreign:
    """Counts the records of an embeddings topic that are none of ours; a few of them are named in the log."""

    def __init__(self) -> None:
        self.n = 0

    def decode(self, record: Any) -> Embedding | Erased | None:
        """As `decode` of a fetched record; None, counted, for what is none of ours."""
        try:
            return decode(record)
        except FormatUnknown as error:
            self.n += 1
            if self.n.bit_count() == 1:  # the first, second, fourth, eighth ...
                place = f"topic={record.topic} partition={record.partition} offset={record.offset}"
                reason = printable(str(error))
                logger.warning("no embedding of ours, skipped: %s skipped=%d reason=%s", place, self.n, reason)
            return None
