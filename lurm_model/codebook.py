"""The codebook: which interest an item belongs to.

Interests ``0 .. D-1`` are clusters of items, ``D`` is the explicit *unknown* interest. A codebook is immutable; its
`interest_space_id` names the centroids only, so that new items may get an interest without changing the space.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lurm_model.weighting import Float32


def content_id(*parts: bytes) -> str:
    """16 hex digits that name these bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def attribute_tokens(attributes: Mapping[str, Sequence[str] | str]) -> list[str]:
    """The tokens ``"key=value"`` of an item's attributes, in the order of the keys."""
    tokens: list[str] = []
    for key in sorted(attributes):
        values = attributes[key]
        tokens.extend(f"{key}={value}" for value in ([values] if isinstance(values, str) else values))
    return tokens


@dataclass(frozen=True, eq=False)
class Codebook:
    """Item -> interest.

    **Shapes**: centroids float32[D, d_item] of length 1, idf float32[D + 1], token_vectors float32[n_tokens, d_item];
    ``tokens`` gives the row of a token. **Source**: BoI is the paper's, the form of the codebook our decision.
    """

    interest_of: dict[str, int]
    centroids: Float32
    idf: Float32
    tokens: dict[str, int]
    token_vectors: Float32

    @property
    def n_clusters(self) -> int:
        """D, the number of clusters of items."""
        return len(self.centroids)

    @property
    def unknown(self) -> int:
        """The interest of items that nothing is known about."""
        return len(self.centroids)

    @property
    def n_interests(self) -> int:
        """D + 1: the size of any array with one entry per interest."""
        return len(self.centroids) + 1

    @cached_property
    def interest_space_id(self) -> str:
        """Names what an interest number means: a hash of the centroids."""
        shape = np.asarray(self.centroids.shape, "<i8").tobytes()
        return content_id(shape, np.ascontiguousarray(self.centroids, "<f4").tobytes())

    def assign(self, attributes: Mapping[str, Sequence[str]]) -> int:
        """The interest of an item never seen in training, from its attributes alone; `unknown` if no token is known."""
        rows = [self.tokens[token] for token in attribute_tokens(attributes) if token in self.tokens]
        if not rows:
            return self.unknown
        return int(np.argmax(self.centroids @ self.token_vectors[rows].mean(axis=0)))
