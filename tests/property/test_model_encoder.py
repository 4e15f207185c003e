"""What must hold for any population: order, numbering, company and roll-up change nothing about a user."""

from random import Random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lurm_model.bundle import Bundle
from lurm_model.events import day_rows
from lurm_model.inference.encoder import Encoder
from lurm_model.interests.codebook import Codebook
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from state.history import resolve
from state.periods import MS_PER_DAY

N_USERS, N_CLUSTERS = 6, 12
MS_PER_EVENT_MAX = 1500 * MS_PER_DAY


def make_encoder() -> tuple[Encoder, Bundle]:
    rng = np.random.default_rng(0)
    book = Codebook(
        {},
        np.eye(N_CLUSTERS, 8, dtype=np.float32),
        rng.random(N_CLUSTERS + 1).astype(np.float32),
        {},
        np.zeros((0, 8), np.float32),
    )
    config = SmenConfig(N_CLUSTERS + 1, 8, reference_day=900, n_vectors=4, n_recurrent=2, d_anchor=8)
    torch.manual_seed(0)
    smen = Smen(config)
    torch.nn.init.normal_(smen.anchors.interests)
    bundle = Bundle.build(config, book, {k: v.detach().numpy() for k, v in smen.state_dict().items()}, {}, {})
    return Encoder(bundle, "cpu"), bundle


ENCODER, BUNDLE = make_encoder()
Event = tuple[int, int, int, int]
EVENT = st.tuples(
    st.integers(0, N_USERS - 1), st.integers(0, MS_PER_EVENT_MAX), st.integers(0, N_CLUSTERS), st.integers(1, 5)
)
EVENTS = st.lists(EVENT, min_size=1, max_size=40)


def encode(events: list[Event], n_users: int = N_USERS) -> np.ndarray:
    user, ts_ms, interest, weight = np.array(events, np.int64).T
    return ENCODER.encode(resolve(day_rows(user, ts_ms, interest, weight), BUNDLE.scales, n_users), n_users)


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events: list[Event], random: Random) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)
    np.testing.assert_array_equal(encode(shuffled), encode(events))


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.integers(0, MS_PER_DAY - 1))
def test_the_time_of_day_does_not_matter(events: list[Event], shift: int) -> None:
    moved = [(u, ts // MS_PER_DAY * MS_PER_DAY + shift, i, w) for u, ts, i, w in events]
    np.testing.assert_array_equal(encode(moved), encode(events))


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.permutations(range(N_USERS)))
def test_numbering_the_users_otherwise_only_moves_their_vectors(events: list[Event], place: list[int]) -> None:
    renumbered = encode([(place[u], ts, i, w) for u, ts, i, w in events])
    np.testing.assert_allclose(renumbered[list(place)], encode(events), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_user_does_not_depend_on_the_others(events: list[Event]) -> None:
    together = encode(events)
    for user in {u for u, *_ in events}:
        alone = encode([(0, ts, i, w) for u, ts, i, w in events if u == user], 1)
        np.testing.assert_allclose(alone[0], together[user], rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_vectors_are_finite_and_zero_only_without_events(events: list[Event]) -> None:
    vectors = encode(events)
    assert np.isfinite(vectors).all()
    busy = {u for u, *_ in events}
    for user in range(N_USERS):
        assert (np.abs(vectors[user]).max() > 0) == (user in busy)


@settings(max_examples=30, deadline=None)
@given(EVENTS, EVENT)
def test_one_more_event_changes_only_its_user(events: list[Event], event: Event) -> None:
    before, after = encode(events), encode([*events, event])
    others = [user for user in range(N_USERS) if user != event[0]]
    np.testing.assert_allclose(after[others], before[others], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after[event[0]], before[event[0]], rtol=1e-7, atol=1e-9)
