"""The item embedding module: an item is the mean of its attributes' token vectors plus, if frequent, its own vector.

It starts from the truncated SVD of the tf-idf user x item matrix, every item's row of length 1, and the tokens from
their items' means; from there it learns on the users' sequences (our decision, as the paper names the module only).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from lurm_model.events import Attributes, Events
from lurm_model.interests.codebook import attribute_tokens
from lurm_model.interests.item_learning import ItemEmbedding, learn_items
from lurm_model.interests.weighting import Float32, inverse_frequency
from lurm_model.progress import Progress, silent
from state.periods import Int64

# Below this many users an item with known tokens is embedded from them alone: its own row of the SVD is noise.
OWN_VECTOR_USERS = 3
# A token of one item says nothing of others; beyond the cap the vocabulary is free text.
TOKEN_ITEMS_MIN = 2
TOKENS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """What is known of every item and token.

    **Shapes**: vectors float32[n_items, d] of length 1, token_vectors float32[n_tokens, d] of any length (an item's
    tokens are averaged as they are), users_of int64[n_items].
    """

    vectors: Float32
    tokens: dict[str, int]
    token_vectors: Float32
    users_of: Int64


def user_item_matrix(user: Int64, item: Int64, weight: Int64, shape: tuple[int, int]) -> sp.csr_matrix:
    """How often each user had each item (or interest), float32[n_users, n_items]."""
    matrix = sp.csr_matrix((weight.astype(np.float32), (user, item)), shape=shape)
    matrix.sum_duplicates()
    return matrix


def tf_idf(counts: sp.csr_matrix, idf: Float32) -> sp.csr_matrix:
    """The counts weighted as the model weights them, every row of length 1."""
    weighted = counts.copy()
    weighted.data = np.log1p(weighted.data) * idf[weighted.indices]
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sp.diags((1 / np.maximum(norms, 1e-12)).astype(np.float32)) @ weighted


def svd_item_vectors(events: Events, d_item: int, seed: int) -> tuple[Float32, Int64]:
    """Every item's row of the truncated SVD, of length 1 (0 where there is nothing), and how many users it has."""
    shape = (len(events.users), len(events.items))
    counts = user_item_matrix(events.user, events.item, events.weight, shape)
    users_of = np.bincount(counts.indices, minlength=counts.shape[1]).astype(np.int64)
    matrix = tf_idf(counts, inverse_frequency(counts.shape[0], users_of))
    rank = min(d_item, *matrix.shape)
    _, s, vt = randomized_svd(matrix, rank, n_iter=4, random_state=seed)
    vectors = np.zeros((counts.shape[1], d_item), np.float32)
    vectors[:, :rank] = (vt * s[:, None]).T
    return normalise(vectors), users_of


def normalise(vectors: Float32) -> Float32:
    """Rows of length 1; rows of nothing stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def token_matrix(item_attributes: Sequence[Attributes]) -> tuple[sp.csr_matrix, dict[str, int]]:
    """Which tokens an item has, each row summing to 1, and the tokens' columns."""
    tokens_of = [list(dict.fromkeys(attribute_tokens(attributes))) for attributes in item_attributes]
    counter = Counter(token for tokens in tokens_of for token in tokens)
    kept = [token for token, n in counter.most_common(TOKENS_MAX) if n >= TOKEN_ITEMS_MIN]
    column = {token: index for index, token in enumerate(sorted(kept))}
    pairs = [(row, column[token]) for row, tokens in enumerate(tokens_of) for token in tokens if token in column]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    share = 1 / np.maximum(np.bincount(rows, minlength=len(tokens_of)), 1)
    shape = (len(tokens_of), len(column))
    return sp.csr_matrix((share[rows].astype(np.float32), (rows, columns)), shape=shape), column


def start_items(events: Events, d_item: int, seed: int) -> tuple[ItemEmbedding, dict[str, int], Int64]:
    """The item embedding before it learns, the tokens' rows, and how many users every item has."""
    own, users_of = svd_item_vectors(events, d_item, seed)
    share, tokens = token_matrix(events.item_attributes)
    frequency = sp.diags(users_of.astype(np.float32))
    token_vectors = normalise(np.asarray((share.T @ frequency @ own), np.float32))
    has_own = (users_of >= OWN_VECTOR_USERS) | (np.diff(share.indptr) == 0)
    return ItemEmbedding(own, token_vectors, share, has_own), tokens, users_of


def embed_items(events: Events, d_item: int, seed: int, progress: Progress = silent) -> ItemVectors:
    """The vectors of all items and tokens, learned; equal seeds give equal vectors on one machine."""
    embedding, tokens, users_of = start_items(events, d_item, seed)
    learn_items(embedding, events, seed, progress)
    return ItemVectors(embedding.vectors(), tokens, embedding.token_vectors(), users_of)
