from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lurm_model.interests.attribute_sets import AttributeSets
from lurm_model.interests.codebook import Codebook, GivenAttributes

N_TOKENS = 200
VECTORS = np.random.default_rng(1).normal(size=(N_TOKENS, 8)).astype(np.float32)
BOOK = Codebook({}, VECTORS[:50], np.ones(51, np.float32), {f"t={i}": i for i in range(N_TOKENS)}, VECTORS)


def ask(sets: AttributeSets, items: Sequence[GivenAttributes]) -> tuple[list[int], int]:
    """Their interests, and how many sets had to be found."""
    found, new = sets.look_up(items)
    interests = sets.find(new.sets)
    sets.remember(new, interests)
    found[found < 0] = interests[new.of_item]
    return found.tolist(), len(new.sets)


def item(*tokens: int, **more: str) -> GivenAttributes:
    return {"t": [str(token) for token in tokens], **more}


def test_a_set_of_known_tokens_is_found_once_whatever_stands_beside_them() -> None:
    sets = AttributeSets(BOOK)
    expected = BOOK.assign(item(1, 2))
    items = [item(1, 2), item(2, 1, title="one"), item(1, 1, 2, 999, title="two"), {"t": None}, {"title": "three"}]
    assert ask(sets, items) == ([expected] * 3 + [BOOK.unknown] * 2, 1)
    assert ask(sets, items) == ([expected] * 3 + [BOOK.unknown] * 2, 0)


items = st.lists(st.lists(st.integers(0, N_TOKENS + 9), max_size=4).map(lambda tokens: item(*tokens)), max_size=40)


@given(st.lists(items, max_size=4), st.integers(1, 30))
def test_what_is_found_is_what_the_codebook_says_however_few_places_there_are(
    batches: list[list[GivenAttributes]], n_places: int
) -> None:
    sets = AttributeSets(BOOK, n_places)
    for batch in batches:
        assert ask(sets, batch)[0] == BOOK.assign_many(batch).tolist()


def test_more_sets_than_places_cost_a_share_of_what_is_remembered_and_not_all() -> None:
    """Asked for in turn, where whoever drops the oldest finds none again."""
    sets, n = AttributeSets(BOOK, 1_000), 1_500
    pairs = [item(i % N_TOKENS, (i + 1 + i // N_TOKENS) % N_TOKENS) for i in range(n)]
    ask(sets, pairs)
    n_found_again = n - ask(sets, pairs)[1]
    assert n_found_again > n // 4
