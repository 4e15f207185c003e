"""What the console holds of the topics: rows, partition records and newest embeddings, in bounded memory.

A user is held whole or not at all: rows that arrive later must not be taken for a life. When ``bytes_max`` is passed,
the share of users that are held is halved, by a hash of their ids, until the rest fits; the others are read from the
topics when somebody asks for them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from threading import Lock
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from state.errors import FormatUnknown
from state.record import PartitionRecord, decode_record
from state.rows import RECORD_KEY, user_of
from stream.console.nearest import SpaceVectors
from stream.operations.replay import State
from stream.records.embedding_record import Embedding, Erased, decode

EVERYBODY: Final = 1 << 32
_N_EMBEDDINGS = 5
# Of Python's objects beside the bytes of a row, and of what is kept of a user's last embeddings.
_ROW_BYTES, _USER_BYTES = 200, 2_000


class Published(NamedTuple):
    """What is kept of an embedding besides its vectors."""

    seq: int
    model_id: str
    space_id: str
    norm: float
    event_time_ms: int
    encoded_at_ms: int


class Known(NamedTuple):
    """One user: rows, last embeddings (newest first), the newest's vectors as one."""

    state: State
    embeddings: Sequence[Published]
    vector: NDArray[np.float32] | None


class _User:
    __slots__ = ("embeddings", "partition", "rows", "space")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.rows: dict[bytes, bytes] = {}
        self.embeddings: deque[Published] = deque(maxlen=_N_EMBEDDINGS)
        self.space: tuple[str, NDArray[np.float32]] | None = None


class Held:
    """Fed by one thread, asked by many; ``complete`` once the topics were read to an end."""

    def __init__(self, bytes_max: int) -> None:
        self.complete = False
        self.unreadable = 0
        self._bytes_max = bytes_max
        self._row_bytes = 0
        self._below = EVERYBODY
        self._users: dict[bytes, _User] = {}
        self._records: dict[int, PartitionRecord] = {}
        self._spaces: dict[tuple[str, int], SpaceVectors] = {}
        self._lock = Lock()

    def add_rows(self, batch: Iterable[Any]) -> None:
        """Records of the changelog, in order."""
        with self._lock:
            for record in batch:
                if record.key == RECORD_KEY and record.value is not None:
                    self._records[record.partition] = decode_record(record.value)
                elif not record.key.startswith(b"\0"):
                    self._add_row(record)
            self._stay_bounded()

    def add_embeddings(self, batch: Iterable[Any]) -> None:
        """Records of the embeddings topic, in order; what is no embedding of ours is counted and left out."""
        with self._lock:
            for record in batch:
                try:
                    embedding = decode(record)
                except (FormatUnknown, UnicodeDecodeError):
                    self.unreadable += 1
                else:
                    self._add_embedding(record.key, embedding, record.partition)
            self._stay_bounded()

    def records(self) -> dict[int, PartitionRecord]:
        """The newest partition records."""
        with self._lock:
            return dict(self._records)

    def summary(self, n_recent: int) -> dict[str, Any]:
        """How much is held, and who changed last."""
        with self._lock:
            return {
                "users": len(self._users),
                "share": self._below / EVERYBODY,
                "bytes": self._n_bytes,
                "unreadable_embeddings": self.unreadable,
                "recent_users": [user.decode(errors="replace") for user in islice(reversed(self._users), n_recent)],
            }

    def holds(self, user: str) -> bool:
        """Whether all that the topics say of this user is here."""
        return crc32(user.encode()) < self._below

    def of_user(self, user: str) -> Known:
        """What is held of one user."""
        with self._lock:
            found = self._users.get(user.encode(), _User(0))
            state = State({found.partition: dict(found.rows)} if found.rows else {}, dict(self._records))
            return Known(state, [*reversed(found.embeddings)], found.space[1] if found.space else None)

    def nearest(self, user: str, known: Known, n: int) -> tuple[list[tuple[str, float]], int]:
        """The users whose newest embeddings of the same space have the highest cosine, and how many were compared."""
        if known.vector is None:
            return [], 0
        with self._lock:
            space = self._spaces.get((known.embeddings[0].space_id, len(known.vector)), SpaceVectors(len(known.vector)))
            found = space.nearest(user.encode(), known.vector, n)
            return [(other.decode(errors="replace"), cosine) for other, cosine in found], len(space)

    def _add_row(self, record: Any) -> None:
        key = user_of(record.key)
        if crc32(key) >= self._below:
            return
        # Whoever changed last stands last.
        user = self._users.pop(key, None) or _User(record.partition)
        old = user.rows.pop(record.key, None)
        if old is not None:
            self._row_bytes -= len(record.key) + len(old) + _ROW_BYTES
        if record.value is not None:
            user.rows[record.key] = record.value
            self._row_bytes += len(record.key) + len(record.value) + _ROW_BYTES
        if user.rows or user.embeddings:
            self._users[key] = user

    def _add_embedding(self, key: bytes, embedding: Embedding | Erased, partition: int) -> None:
        if crc32(key) >= self._below:
            return
        user = self._users.pop(key, None) or _User(partition)
        self._leave_space(key, user)
        if isinstance(embedding, Erased):
            user.embeddings.clear()
            user.space = None
        else:
            user.embeddings.append(published(embedding))
            vector = flat(embedding)
            user.space = (embedding.space_id, vector)
            space = self._spaces.setdefault((embedding.space_id, len(vector)), SpaceVectors(len(vector)))
            space.put(key, vector)
        if user.rows or user.embeddings:
            self._users[key] = user

    def _leave_space(self, key: bytes, user: _User) -> None:
        if user.space is not None:
            at = (user.space[0], len(user.space[1]))
            self._spaces[at].remove(key)
            if not len(self._spaces[at]):
                del self._spaces[at]

    @property
    def _n_bytes(self) -> int:
        # A vector stands in its space and with its user.
        vectors = sum(2 * space.n_bytes for space in self._spaces.values())
        return self._row_bytes + vectors + _USER_BYTES * len(self._users)

    def _stay_bounded(self) -> None:
        while self._n_bytes > self._bytes_max and self._users:
            self._below //= 2
            for key in [key for key in self._users if crc32(key) >= self._below]:
                user = self._users.pop(key)
                self._row_bytes -= sum(len(row) + len(value) + _ROW_BYTES for row, value in user.rows.items())
                self._leave_space(key, user)
            for space in self._spaces.values():
                space.shrink()


def published(embedding: Embedding) -> Published:
    """What is kept of an embedding."""
    return Published(
        embedding.seq,
        embedding.model_id,
        embedding.space_id,
        embedding.norm,
        embedding.event_time_ms,
        embedding.encoded_at_ms,
    )


def flat(embedding: Embedding) -> NDArray[np.float32]:
    """All vectors of an embedding as one, of its own memory."""
    return embedding.vectors.astype(np.float32).reshape(-1)
