"""The newest embeddings of one vector space side by side, to find who is near to whom."""

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 64


class SpaceVectors:
    """One unit vector per user; the first ``len(users)`` rows are in use, and the last one fills a gap."""

    def __init__(self, width: int) -> None:
        self._users: list[bytes] = []
        self._at: dict[bytes, int] = {}
        self._rows = np.zeros((_FIRST_ROWS, width), np.float32)

    def __len__(self) -> int:
        return len(self._users)

    @property
    def n_bytes(self) -> int:
        """What the vectors take, unused rows included."""
        return self._rows.nbytes

    def put(self, user: bytes, vector: NDArray[np.float32]) -> None:
        """The user's newest vector, of any length; a zero vector is near to nobody."""
        at = self._at.setdefault(user, len(self._users))
        if at == len(self._users):
            self._users.append(user)
            if at == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        norm = np.linalg.norm(vector)
        self._rows[at] = vector / norm if norm else vector

    def remove(self, user: bytes) -> None:
        """Forget a user, if known."""
        at = self._at.pop(user, None)
        if at is None:
            return
        last = self._users.pop()
        if last != user:
            self._users[at], self._at[last] = last, at
            self._rows[at] = self._rows[len(self._users)]

    def shrink(self) -> None:
        """Give back the rows that are not in use."""
        self._rows = self._rows[: max(_FIRST_ROWS, len(self._users))].copy()

    def nearest(self, user: bytes, vector: NDArray[np.float32], n: int) -> list[tuple[bytes, float]]:
        """The ``n`` others with the highest cosine, nearest first."""
        norm = np.linalg.norm(vector)
        if not norm or not self._users:
            return []
        cosines = self._rows[: len(self._users)] @ (vector / norm)
        n_wanted = min(n + 1, len(cosines))
        best = np.argpartition(-cosines, n_wanted - 1)[:n_wanted]
        ordered = best[np.argsort(-cosines[best], kind="stable")]
        return [(self._users[at], float(cosines[at])) for at in ordered if self._users[at] != user][:n]
