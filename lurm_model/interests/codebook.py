"""The codebook: which interest an item belongs to.

Interests ``0 .. D-1`` are clusters of items, ``D`` is the explicit *unknown* interest. A codebook is immutable; its
`interest_space_id` names the centroids only, so that new items may get an interest without changing the space.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import scipy.sparse as sp

from lurm_model.interests.nearest import Nearest
from lurm_model.interests.weighting import Float32
from state.periods import Int64

# An item's attributes as events and catalogues write them, and whatever reads the same; None says nothing.
WrittenAttributes = dict[str, str | list[str] | None]
GivenAttributes = Mapping[str, Sequence[str] | str | None]


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
        return self.assign_sets([sorted(self.known_tokens(each)) for each in item_attributes])

    def known_tokens(self, attributes: GivenAttributes) -> set[int]:
        """The rows of the tokens that are known of these attributes."""
        found: set[int] = set()
        for key, values in attributes.items():
            rows = self._rows_of.get(key)
            if rows is None or values is None:
                continue
            for value in (values,) if isinstance(values, str) else values:
                row = rows.get(value)
                if row is not None:
                    found.add(row)
        return found

    @cached_property
    def _rows_of(self) -> dict[str, dict[str, int]]:
        """The rows of the tokens by key and value; of a token that can be parted in several ways by each."""
        rows: dict[str, dict[str, int]] = {}
        for token, row in self.tokens.items():
            for at, character in enumerate(token):
                if character == "=":
                    rows.setdefault(token[:at], {})[token[at + 1 :]] = row
        return rows

    def assign_sets(self, token_sets: Sequence[Collection[int]]) -> Int64:
        """The interest of each of these sets of tokens' rows, ascending; `unknown` if it has none, or they cancel."""
        found = np.full(len(token_sets), self.unknown, np.int64)
        vectors = self._embed(token_sets)
        told = np.flatnonzero(vectors.any(axis=1))
        found[told] = self._nearest(vectors[told])
        return found

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.centroids)

    def _embed(self, token_sets: Sequence[Collection[int]]) -> Float32:
        """As training does: the mean of an item's known tokens, each once; zeros where none is known."""
        n_tokens = np.fromiter(map(len, token_sets), np.int64, len(token_sets))
        share = np.repeat(1 / np.maximum(n_tokens, 1), n_tokens).astype(np.float32)
        columns = np.fromiter(chain.from_iterable(token_sets), np.int64, int(n_tokens.sum()))
        offsets = np.append(0, np.cumsum(n_tokens))
        matrix = sp.csr_matrix((share, columns, offsets), (len(token_sets), len(self.token_vectors)))
        return np.asarray(matrix @ self.token_vectors, np.float32)
