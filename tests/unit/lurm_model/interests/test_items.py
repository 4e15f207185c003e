import numpy as np
import scipy.sparse as sp

from lurm_model.events import Events
from lurm_model.files.datasets import synthetic
from lurm_model.interests.items import embed_items, svd_item_vectors, tf_idf, token_matrix, user_item_matrix
from lurm_model.interests.weighting import inverse_frequency


def small() -> Events:
    return synthetic(n_users=60, n_items=40, n_groups=2, seed=1)[0].compact()


def dense_tf_idf(events: Events) -> np.ndarray:
    counts = np.zeros((len(events.users), len(events.items)))
    np.add.at(counts, (events.user, events.item), 1)
    weighted = np.log1p(counts) * (np.log((1 + len(counts)) / (1 + (counts > 0).sum(0))) + 1)
    return weighted / np.linalg.norm(weighted, axis=1, keepdims=True)


def test_the_sparse_tf_idf_equals_the_dense_one() -> None:
    events = small()
    shape = (len(events.users), len(events.items))
    counts = user_item_matrix(events.user, events.item, events.weight, shape)
    idf = inverse_frequency(shape[0], np.bincount(counts.indices, minlength=shape[1]))
    np.testing.assert_allclose(tf_idf(counts, idf).toarray(), dense_tf_idf(events), rtol=1e-5)


def test_item_vectors_are_the_directions_of_the_truncated_svd() -> None:
    events = small()
    vectors, users_of = svd_item_vectors(events, 8, seed=0)
    _, s, vt = np.linalg.svd(dense_tf_idf(events), full_matrices=False)
    expected = (vt[:8] * s[:8, None]).T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=0.05)
    assert users_of.sum() == len(np.unique(events.user * 1000 + events.item))


def test_more_dimensions_than_the_data_has_are_zero() -> None:
    events = small()
    vectors, _ = svd_item_vectors(events, 64, seed=0)
    assert vectors.shape == (len(events.items), 64)
    assert np.abs(vectors[:, min(len(events.users), len(events.items)) :]).max() == 0


def test_tokens_of_a_single_item_are_no_tokens() -> None:
    share, tokens = token_matrix([{"a": ["x", "y"]}, {"a": ["x"]}, {"a": ["y"], "id": ["1"]}, {}])
    assert list(tokens) == ["a=x", "a=y"]
    assert share.toarray().tolist() == [[0.5, 0.5], [1, 0], [0, 1], [0, 0]]
    assert sp.issparse(share)


def test_a_rare_item_is_embedded_from_its_attributes_alone() -> None:
    events = small()
    rare = int(events.item[0])
    kept = (events.item != rare) | (np.arange(len(events)) == 0)
    items = embed_items(events.where(kept), 16, seed=0)
    (topic,) = events.item_attributes[rare]["topic"]
    token = items.token_vectors[items.tokens[f"topic={topic}"]]
    np.testing.assert_allclose(items.vectors[rare], token / np.linalg.norm(token), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items.vectors, axis=1), 1, rtol=1e-5)
