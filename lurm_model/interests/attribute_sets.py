"""Interests of items of which nothing but attributes is known, remembered by what the codebook knows of these.

A title or a price that no token stands for makes no new set. What was found stands in a table of fixed size, in which
a set takes the place of another: where there are more sets than places, some are found again and not none.
"""

import secrets
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lurm_model.interests.codebook import Codebook, GivenAttributes
from state.periods import Int64

# 20 bytes each, of which only those that are used take memory.
PLACES: Final = 1 << 20
# Sets that are to be looked for at once, at most: at 100,000 interests that takes a fraction of a second, at a million
# seconds.
SETS_AT_ONCE: Final = 2_048
_NOT_FOUND: Final = -1


class NewSets(NamedTuple):
    """Sets of tokens whose interests are to be found. **Shapes**: keys uint64[n, 2], of_item int64[n_items]."""

    sets: list[list[int]]
    keys: NDArray[np.uint64]
    of_item: Int64


class AttributeSets:
    """Looks up what was found; what is found is a function of the attributes alone.

    `look_up` and `remember` run on one thread, `find`, which takes long, on any.
    """

    def __init__(self, codebook: Codebook, n_places: int = PLACES) -> None:
        self._codebook = codebook
        self._n_places = n_places
        # A set's key is the sum of its tokens': nobody who does not know them can make two sets fall together.
        rng = np.random.default_rng(secrets.randbits(128))
        self._token_keys = rng.integers(0, 1 << 64, (len(codebook.token_vectors), 2), np.uint64)
        self._keys = np.zeros((n_places, 2), np.uint64)
        self._interests = np.full(n_places, _NOT_FOUND, np.int32)

    def look_up(self, item_attributes: Sequence[GivenAttributes]) -> tuple[Int64, NewSets]:
        """What is remembered of each, int64[n] (-1: nothing), and what is to be found for the others."""
        known = self._codebook.known_tokens
        sets = [known(attributes) for attributes in item_attributes]
        n_tokens = np.fromiter(map(len, sets), np.int64, len(sets))
        found = np.full(len(sets), self._codebook.unknown, np.int64)
        told = np.flatnonzero(n_tokens)
        keys = self._keys_of(sets, n_tokens, told)
        places = self._places(keys)
        found[told] = np.where((self._keys[places] == keys).all(axis=1), self._interests[places], _NOT_FOUND)
        is_new = found[told] == _NOT_FOUND
        new_keys, first, of_item = np.unique(keys[is_new], axis=0, return_index=True, return_inverse=True)
        new = told[is_new][first].tolist()
        return found, NewSets([sorted(sets[i]) for i in new], new_keys, of_item.ravel())

    def find(self, sets: Sequence[Collection[int]]) -> Int64:
        """The interests of these sets; changes nothing."""
        return self._codebook.assign_sets(sets)

    def remember(self, new: NewSets, interests: Int64) -> None:
        """Know from now on what was found for these sets."""
        # Of two that fall on one place the last stays, with its key and its interest.
        places = self._places(new.keys)
        self._keys[places] = new.keys
        self._interests[places] = interests

    def _keys_of(self, sets: Sequence[Collection[int]], n_tokens: Int64, told: Int64) -> NDArray[np.uint64]:
        if not len(told):
            return np.zeros((0, 2), np.uint64)
        tokens = np.fromiter(chain.from_iterable(sets), np.int64, int(n_tokens.sum()))
        return np.add.reduceat(self._token_keys[tokens], (np.cumsum(n_tokens) - n_tokens)[told], axis=0)

    def _places(self, keys: NDArray[np.uint64]) -> Int64:
        return (keys[:, 0] % np.uint64(self._n_places)).astype(np.int64)
