"""Published embeddings beside the vectors that their users' rows give when they are encoded anew, in full."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from state.history import Rows, resolve
from stream.records.embedding_record import Embedding

if TYPE_CHECKING:
    from lurm_model.bundle import Bundle
    from lurm_model.inference.encoder import Encoder

# Of the length of a user's vectors: rounding of the format and of the order of sums, no more.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
_EXAMPLES_MAX = 5


class Check:
    """Compares users batch by batch; ``counts`` says how many were equal, different or pending."""

    def __init__(self, bundle: "Bundle", encoder: "Encoder", tolerance: float | None) -> None:
        self.counts: Counter[str] = Counter()
        self.largest_error = 0.0
        self.examples: list[str] = []
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
            if verdict == "different" and len(self.examples) < _EXAMPLES_MAX:
                self.examples.append(user.decode())

    def _verdict(self, embedding: Embedding | None, seq: int, expected: NDArray[np.float32]) -> str:
        if embedding is None or embedding.model_id != self._bundle.model_id or embedding.seq < seq:
            return "pending"
        # Newer than every row: rows were lost after they had been encoded.
        if embedding.seq > seq or embedding.vectors.shape != expected.shape:
            return "different"
        error = relative_error(embedding.vectors.astype(np.float64), expected.astype(np.float64))
        self.largest_error = max(self.largest_error, error)
        limit = TOLERANCE[embedding.vectors.dtype.name] if self._tolerance is None else self._tolerance
        return "equal" if error <= limit else "different"


def relative_error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest difference of any element, relative to the length of the expected vectors; infinite if not finite."""
    if not np.isfinite(found).all():
        return float("inf")
    length = float(np.linalg.norm(expected)) or 1.0
    return float(np.abs(found - expected).max(initial=0.0)) / length
