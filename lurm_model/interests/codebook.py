"""The codebook: which interest an item belongs to.

Interests ``0 .. D-1`` are clusters of items, ``D`` is the explicit *unknown* interest. A codebook is immutable; its
`interest_space_id` names the centroids only, so that new items may get an interest without changing the space.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from lurm_model.interests.weighting import Float32
from state.periods import Int64

# An item's attributes as events and catalogues write them, and whatever reads the same; None says nothing.
WrittenAttributes = dict[str, str | list[str] | None]
GivenAttributes = Mapping[str, Sequence[str] | str | None]

# Numbers in one block of products of items and centroids: 64 MiB.
_BLOCK = 1 << 24
# Far more than a product of float32 vectors of length 1 is off.
_NEAR = 1e-5


def content_id(*parts: bytes) -> str:
    """16 hex digits that name these bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def attribute_tokens(attributes: GivenAttributes) -> list[str]:
    """The tokens ``"key=value"`` of an item's attributes, in the order of the keys; None has none."""
    tokens: list[str] = []
    for key in sorted(attributes):
        values = attributes[key]
        tokens.extend(f"{key}={value}" for value in ([values] if isinstance(values, str) else values or ()))
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

    def assign(self, attributes: GivenAttributes) -> int:
        """The interest of an item never seen in training, from its attributes alone; `unknown` if no token is known."""
        return int(self.assign_many([attributes])[0])

    def assign_many(self, item_attributes: Sequence[GivenAttributes]) -> Int64:
        """The interest of each of these items, int64[n]; whichever others are asked for beside it."""
        found = np.full(len(item_attributes), self.unknown, np.int64)
        vectors = self._embed(item_attributes)
        told = np.flatnonzero(vectors.any(axis=1))
        n_block = max(1, _BLOCK // max(1, self.n_clusters))
        for start in range(0, len(told), n_block):
            rows = told[start : start + n_block]
            found[rows] = _nearest(vectors[rows], self.centroids)
        return found

    def _embed(self, item_attributes: Sequence[GivenAttributes]) -> Float32:
        """As training does: the mean of an item's known tokens, each once; zeros where none is known."""
        known = self.tokens
        rows = [
            sorted({known[token] for token in attribute_tokens(each) if token in known}) for each in item_attributes
        ]
        n_tokens = np.array([len(row) for row in rows], np.int64)
        share = np.repeat(1 / np.maximum(n_tokens, 1), n_tokens).astype(np.float32)
        columns = np.array([column for row in rows for column in row], np.int64)
        matrix = sp.csr_matrix(
            (share, columns, np.append(0, np.cumsum(n_tokens))), (len(rows), len(self.token_vectors))
        )
        return np.asarray(matrix @ self.token_vectors, np.float32)


def _nearest(vectors: Float32, centroids: Float32) -> Int64:
    """The centroid with the largest product, int64[n].

    How a matrix product rounds depends on its size, so what is near is compared again, one by one and in float64: an
    item's interest must not depend on the items beside it.
    """
    scores = vectors @ centroids.T
    best = scores.max(axis=1, keepdims=True)
    near = ~(scores < best - _NEAR * np.linalg.norm(vectors, axis=1, keepdims=True))
    item, cluster = np.nonzero(near)
    exact = np.einsum("ij,ij->i", vectors[item].astype(np.float64), centroids[cluster].astype(np.float64))
    first = np.lexsort((cluster, -exact, item))
    return cluster[first][np.unique(item[first], return_index=True)[1]].astype(np.int64)
