import dataclasses

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.codebook import Codebook, attribute_tokens

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
    bundle: Bundle, population
) -> None:
    events, book = population[0], bundle.codebook
    topics: dict[int, list[str]] = {}
    for item, attributes in zip(events.items, events.item_attributes, strict=True):
        topics.setdefault(book.interest_of[item], []).extend(attributes["topic"])
    groups = [(int(a["topic"][0]) % 3, {int(t) % 3 for t in topics[book.assign(a)]}) for a in events.item_attributes]
    assert np.mean([group in found for group, found in groups]) > 0.8
