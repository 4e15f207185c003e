import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.bundle import Bundle
from lurm_model.events import Events, UserLabels
from lurm_model.interests.codebook import Codebook, attribute_tokens
from lurm_model.interests.items import token_matrix

BOOK = Codebook(
    interest_of={"bread": 0, "soap": 1},
    centroids=np.eye(2, 4, dtype=np.float32),
    idf=np.array([1, 1, 0], np.float32),
    tokens={"aisle=food": 0, "aisle=home": 1, "brand=x": 2},
    token_vectors=np.array([[0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0], [0.0, 0.5, 0, 0]], np.float32),
)


def test_an_unseen_item_gets_the_interest_its_attributes_point_to() -> None:
    assert BOOK.assign({"aisle": ["food"]}) == 0
    assert BOOK.assign({"aisle": ["home"], "brand": ["y"]}) == 1
    assert BOOK.assign({"aisle": ["food", "home"], "brand": ["x"]}) == 1


def test_an_item_of_which_nothing_is_known_is_unknown() -> None:
    assert BOOK.assign({"aisle": ["moon"]}) == BOOK.unknown == 2
    assert BOOK.assign({}) == BOOK.unknown
    assert BOOK.n_interests == 3


def test_a_token_said_twice_counts_once_as_in_training() -> None:
    twice = {"aisle": ["food", "food", "food", "home"], "brand": ["x"]}
    once = {"aisle": ["home", "food"], "brand": ["x"]}
    share, columns = token_matrix([twice, once])
    assert (share[0] != share[1]).nnz == 0, "training sees no difference"
    assert BOOK.assign(twice) == BOOK.assign(once) == 1
    trained = dataclasses.replace(BOOK, tokens=columns, token_vectors=BOOK.token_vectors[: len(columns)])
    np.testing.assert_allclose(
        trained._embed([sorted(trained.known_tokens(each)) for each in (twice, once)]),
        share @ trained.token_vectors,
        rtol=1e-6,
    )


def test_an_item_whose_tokens_cancel_out_is_unknown() -> None:
    opposed = dataclasses.replace(BOOK, token_vectors=np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0]], np.float32))
    assert opposed.assign({"aisle": ["food", "home"]}) == opposed.unknown
    assert opposed.assign({"brand": ["x"]}) == opposed.unknown
    assert opposed.assign({"aisle": ["food"]}) == 0


@st.composite
def books(draw: st.DrawFn) -> Codebook:
    """Vectors of few different numbers, so that products tie; one centroid stands twice."""
    d_item, n_tokens = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centroids = rng.choice([-0.5, 0.1, 0.3], (draw(st.integers(1, 40)), d_item)).astype(np.float32)
    centroids = np.concatenate([centroids, centroids[:1]])
    vectors = rng.choice([-0.5, 0.1, 0.3], (n_tokens, d_item)).astype(np.float32)
    tokens = {f"t={i}": i for i in range(n_tokens)}
    return Codebook({}, centroids, np.ones(len(centroids) + 1, np.float32), tokens, vectors)


@given(books(), st.lists(st.lists(st.integers(0, 7).map(str), max_size=4), max_size=30))
def test_many_items_get_what_each_gets_alone_and_what_plain_arithmetic_gives(
    book: Codebook, items: list[list[str]]
) -> None:
    attributes = [{"t": values} for values in items]
    found = book.assign_many(attributes).tolist()
    assert found == [book.assign(each) for each in attributes]
    for values, interest in zip(items, found, strict=True):
        rows = sorted({int(value) for value in values if f"t={value}" in book.tokens})
        mean = book.token_vectors[rows].astype(np.float64).mean(axis=0) if rows else np.zeros(1)
        if np.abs(mean).max() < 1e-6:
            assert interest == book.unknown or rows
            continue
        scores = book.centroids.astype(np.float64) @ mean
        assert scores[interest] >= scores.max() - 1e-6, "nothing is nearer"


def test_an_items_interest_does_not_depend_on_how_many_are_asked_for_at_once() -> None:
    rng = np.random.default_rng(5)
    centroids = rng.normal(size=(30_000, 16)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    centroids[20_000:] = centroids[:10_000]
    vectors = rng.normal(size=(50, 16)).astype(np.float32)
    book = Codebook({}, centroids, np.ones(30_001, np.float32), {f"t={i}": i for i in range(50)}, vectors)
    items = [{"t": [str(n) for n in rng.integers(0, 50, 3)]} for _ in range(1_500)]
    found = book.assign_many(items)
    assert found.max() < 20_000, "of equal centroids the first"
    for size in (1, 7, 100):
        parts = [book.assign_many(items[start : start + size]) for start in range(0, 300, size)]
        np.testing.assert_array_equal(np.concatenate(parts)[:300], found[:300])


def test_tokens_are_key_and_value_whatever_the_order_of_the_keys() -> None:
    expected = ["brand=x", "tag=a", "tag=b"]
    assert attribute_tokens({"tag": ["a", "b"], "brand": "x"}) == expected
    assert attribute_tokens({"brand": ["x"], "tag": ["a", "b"]}) == expected


def test_the_interest_space_is_named_by_the_centroids_alone() -> None:
    renamed = dataclasses.replace(BOOK, interest_of={"milk": 1}, idf=BOOK.idf * 2)
    moved = dataclasses.replace(BOOK, centroids=BOOK.centroids * 0.5)
    assert renamed.interest_space_id == BOOK.interest_space_id != moved.interest_space_id
    assert len(BOOK.interest_space_id) == 16
    int(BOOK.interest_space_id, 16)


def test_a_trained_codebook_sends_most_items_back_by_their_attributes_to_their_topic(
    bundle: Bundle, population: tuple[Events, UserLabels]
) -> None:
    events, book = population[0], bundle.codebook
    topics: dict[int, list[str]] = {}
    for item, attributes in zip(events.items, events.item_attributes, strict=True):
        topics.setdefault(book.interest_of[item], []).extend(attributes["topic"])
    groups = [(int(a["topic"][0]) % 3, {int(t) % 3 for t in topics[book.assign(a)]}) for a in events.item_attributes]
    assert np.mean([group in found for group, found in groups]) > 0.8


names = st.text("ab=", max_size=3)


@given(st.dictionaries(names, st.none() | names | st.lists(names, max_size=3), max_size=3), st.sets(names, max_size=9))
def test_known_tokens_are_those_of_the_attributes_whatever_stands_in_keys_and_values(
    attributes: dict[str, str | list[str] | None], tokens: set[str]
) -> None:
    rows = {f"{token}=": row for row, token in enumerate(sorted(tokens))}
    book = dataclasses.replace(BOOK, tokens=rows, token_vectors=np.ones((len(rows), 4), np.float32))
    assert book.known_tokens(attributes) == {rows[each] for each in attribute_tokens(attributes) if each in rows}
