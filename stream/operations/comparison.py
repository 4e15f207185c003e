"""Published embeddings beside the vectors that their users' rows give when they are encoded anew, in full."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from state.history import Rows, resolve
from state.rows import user_of
from state.walk import Output
from stream.operations.replay import State
from stream.records.embedding_record import Embedding

if TYPE_CHECKING:
    from lurm_model.bundle import Bundle
    from lurm_model.inference.encoder import Encoder

# Of the length of a user's vectors: rounding of the format and of the order of sums, no more.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
_EXAMPLES_MAX = 5


class Check:
    """Compares users batch by batch; ``counts`` says how many were equal, different, pending or not finite.

    ``pending`` has those whose newest row no embedding of this model covers, and its ``seq``; `missing` tells whom of
    them nobody will publish.
    """

    def __init__(self, bundle: "Bundle", encoder: "Encoder", tolerance: float | None) -> None:
        self.counts: Counter[str] = Counter()
        self.largest_error = 0.0
        self.examples: list[str] = []
        self.pending: dict[bytes, int] = {}
        self._bundle = bundle
        self._encoder = encoder
        self._tolerance = tolerance

    @property
    def n_compared(self) -> int:
        """How many users were looked at."""
        return self.counts.total()

    def add_without_rows(self, users: Sequence[str]) -> None:
        """These have an embedding and no row."""
        self.counts["different"] += len(users)
        self.examples.extend(users[:_EXAMPLES_MAX])

    def compare(self, users: Sequence[bytes], rows: Rows, published: Mapping[str, Embedding]) -> None:
        """Encode these users and compare."""
        newest = np.zeros(len(users), np.int64)
        np.maximum.at(newest, rows.user, rows.seq)
        vectors = self._encoder.encode(resolve(rows, self._bundle.scales, len(users)), len(users))
        for user, seq, expected in zip(users, newest.tolist(), vectors, strict=True):
            embedding = published.get(user.decode())
            verdict = self._verdict(embedding, seq, expected)
            self.counts[verdict] += 1
            if verdict == "pending":
                self.pending[user] = seq
            if verdict in ("different", "not_finite") and len(self.examples) < _EXAMPLES_MAX:
                self.examples.append(user.decode())

    def set_missing(self, users: Sequence[bytes]) -> None:
        """These are not pending: whoever should have published them says that it was done."""
        self.counts["missing"] += len(users)
        self.counts["pending"] -= len(users)
        for user in users:
            del self.pending[user]
        self.examples.extend(user.decode() for user in users[:_EXAMPLES_MAX])

    def _verdict(self, embedding: Embedding | None, seq: int, expected: NDArray[np.float32]) -> str:
        if not np.isfinite(expected).all():
            return "not_finite"
        if not covers(embedding, self._bundle.model_id, seq):
            return "pending"
        # Newer than every row: rows were lost after they had been encoded.
        if embedding.seq > seq or embedding.vectors.shape != expected.shape:
            return "different"
        error = relative_error(embedding.vectors.astype(np.float64), expected.astype(np.float64))
        self.largest_error = max(self.largest_error, error)
        limit = TOLERANCE[embedding.vectors.dtype.name] if self._tolerance is None else self._tolerance
        return "equal" if error <= limit else "different"


def covers(embedding: Embedding | None, model_id: str, seq: int) -> TypeGuard[Embedding]:
    """Whether this is this model's embedding of everything up to ``seq``."""
    return embedding is not None and embedding.model_id == model_id and embedding.seq >= seq


def unexplained(pending: Mapping[bytes, int], state: State, output: Output) -> list[bytes]:
    """Whom the partition records call published at this output, by the newest ``seq`` of their rows.

    A record explains who waits: whoever is at or above its watermark, whom its walk has not reached, and everybody
    while it is another model's, as when workers are given a new bundle one after the other. Whose rows lie in several
    partitions is named once.
    """
    found: set[bytes] = set()
    for number, rows in state.rows.items():
        record = state.records.get(number)
        if record is None:
            continue
        there = record.output if record.walk is None else record.walk.to
        if there.model_id not in ("", output.model_id):
            continue
        for user in {user_of(key) for key in rows} & pending.keys():
            is_published = pending[user] < record.published and (record.walk is None or record.walk.has_passed(user))
            if is_published or there.topic not in ("", output.topic):
                found.add(user)
    return sorted(found)


def relative_error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest difference of any element, relative to the length of the expected vectors; infinite if not finite."""
    if not np.isfinite(found).all():
        return float("inf")
    length = float(np.linalg.norm(expected)) or 1.0
    return float(np.abs(found - expected).max(initial=0.0)) / length
