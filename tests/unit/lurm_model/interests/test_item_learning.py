from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lurm_model.events import Attributes, Events
from lurm_model.interests.item_learning import BATCH_PAIRS, ItemEmbedding, Sequences, learn_items, pair_loss
from lurm_model.interests.items import embed_items, start_items
from lurm_model.progress import silent

N_TOPICS, ITEMS_OF_A_TOPIC = 10, 12
N_ITEMS = N_TOPICS * ITEMS_OF_A_TOPIC
TOPIC = np.arange(N_ITEMS) % N_TOPICS


def make_events(user: np.ndarray, item: np.ndarray, ts_ms: np.ndarray, attributes: list[Attributes]) -> Events:
    users = [str(u) for u in range(int(user.max()) + 1)]
    items = [str(i) for i in range(len(attributes))]
    return Events(user, item, ts_ms, np.ones(len(user), np.int64), users, items, attributes)


def walks(rng: np.random.Generator, *, shuffled: bool = False, tokens: bool = False) -> Events:
    """100 users who go through eight topics, six items each: only the order tells the topics apart well."""
    n_users, n_visits, n_items = 100, 8, 6
    topic = np.repeat(rng.integers(N_TOPICS, size=n_users * n_visits), n_items)
    item = topic + N_TOPICS * rng.integers(ITEMS_OF_A_TOPIC, size=len(topic))
    if shuffled:
        item = rng.permutation(item)
    user = np.repeat(np.arange(n_users), n_visits * n_items)
    attributes: list[Attributes] = [{"topic": [str(t)]} if tokens else {} for t in TOPIC]
    return make_events(user, item, np.arange(len(user)) * 1000, attributes)


def separation(vectors: np.ndarray) -> float:
    """How much nearer items are to those of their topic than to the others."""
    cosine = vectors @ vectors.T
    same, off = TOPIC[:, None] == TOPIC, ~np.eye(len(vectors), dtype=bool)
    return float(cosine[same & off].mean() - cosine[~same].mean())


def start_of(events: Events, seed: int = 0) -> ItemEmbedding:
    return start_items(events, 32, seed)[0]


def test_a_window_is_five_events_on_each_side_or_the_whole_basket_and_never_another_user() -> None:
    user = np.array([0] * 12 + [1] * 9)
    ts_ms = np.concatenate([np.arange(12), np.full(9, 7)])
    sequences = Sequences.of(make_events(user, np.arange(21), ts_ms, [{}] * 21))
    np.testing.assert_array_equal(sequences.first, [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6] + [12] * 9)
    np.testing.assert_array_equal(sequences.last, [5, 6, 7, 8, 9, 10, 11, 11, 11, 11, 11, 11] + [20] * 9)


def test_pairs_are_different_items_of_one_window_and_all_of_them_come(rng: np.random.Generator) -> None:
    user = np.repeat(np.arange(30), 8)
    item = np.arange(len(user)) - np.arange(len(user)) % 8 // 7
    sequences = Sequences.of(make_events(user, item, np.arange(len(user)), [{}] * len(user)))
    a, b = sequences.draw(20_000, rng)
    assert (a // 8 == b // 8).all()
    assert (a != b).all()
    assert set((a % 8).tolist()) == set(range(7))
    near = {(x, y) for x in range(8) for y in range(8) if 0 < abs(x - y) <= 5}
    assert {(min(x, 6), min(y, 6)) for x, y in near} - {(6, 6)} == set(
        zip((a % 8).tolist(), (b % 8).tolist(), strict=True)
    )


def test_what_weighs_more_is_drawn_more_often(rng: np.random.Generator) -> None:
    events = make_events(np.zeros(2, np.int64), np.arange(2), np.arange(2), [{}] * 2)
    events.weight[:] = [1, 9]
    a, _ = Sequences.of(events).draw(10_000, rng)
    assert a.mean() == pytest.approx(0.9, abs=0.02)


def test_gradients_reach_only_the_items_and_tokens_of_the_batch(rng: np.random.Generator) -> None:
    embedding = start_of(walks(rng, tokens=True))
    a, b = torch.tensor([0, 20, 31]), torch.tensor([1, 40, 11])
    torch.autograd.backward(pair_loss(embedding, a, b, torch.zeros(N_ITEMS)))
    assert embedding.own.grad is not None
    assert embedding.tokens.grad is not None
    own, tokens = embedding.own.grad.coalesce(), embedding.tokens.grad.coalesce()
    assert own.indices().flatten().tolist() == sorted([*a.tolist(), *b.tolist()])
    assert tokens.indices().flatten().tolist() == [0, 1]
    assert (own.values().abs().sum(dim=1) > 0).all()


def test_an_item_without_a_vector_of_its_own_gets_none(rng: np.random.Generator) -> None:
    events = walks(rng, tokens=True)
    kept = (events.item != 3) | (np.cumsum(events.item == 3) <= 2)
    embedding = start_of(events.where(kept))
    learn_items(embedding, events.where(kept), 0, silent)
    assert not embedding.own[3].any()
    token = embedding.token_vectors()[3]
    np.testing.assert_allclose(embedding.vectors()[3], token / np.linalg.norm(token), rtol=1e-5)


def test_the_loss_of_pairs_is_info_nce_corrected_for_popularity_and_the_pull_to_the_start(
    rng: np.random.Generator,
) -> None:
    embedding = start_of(walks(rng, tokens=True))
    with torch.no_grad():
        embedding.own.add_(0.1 * torch.randn(embedding.own.shape, generator=torch.Generator().manual_seed(0)))
    a, b = rng.integers(0, N_ITEMS, (2, 12))
    popularity, vectors = rng.normal(-3, 2, N_ITEMS), embedding.vectors().astype(np.float64)
    losses = []
    for i in range(12):
        others = [j for j in range(12) if j == i or b[j] not in (a[i], b[i])]
        logits = {j: vectors[a[i]] @ vectors[b[j]] / 0.2 - 0.25 * popularity[b[j]] for j in others}
        losses.append(np.log(np.sum(np.exp(list(logits.values())))) - logits[i])
    drift = ((embedding.own - embedding.start).detach().numpy()[np.unique([a, b])] ** 2).sum()
    found = pair_loss(embedding, torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(popularity))
    assert float(found.detach()) == pytest.approx(np.mean(losses) + 0.1 * drift / 12, rel=1e-5)


def test_the_loss_of_a_pair_that_stands_twice_in_a_batch_does_not_count_itself_as_a_negative(
    rng: np.random.Generator,
) -> None:
    embedding = start_of(walks(rng))
    twice = pair_loss(embedding, torch.tensor([0, 0]), torch.tensor([1, 1]), torch.zeros(N_ITEMS))
    assert float(twice.detach()) == pytest.approx(0)


def test_learning_lowers_the_loss_of_pairs_not_drawn_and_ends_its_progress(rng: np.random.Generator) -> None:
    events, other, seen = walks(rng), walks(rng), []
    embedding = start_of(events)
    a, b = (torch.from_numpy(part) for part in Sequences.of(other).draw(500, rng))
    before = float(pair_loss(embedding, a, b, torch.zeros(N_ITEMS)).detach())
    learn_items(embedding, events, 0, lambda *stage: seen.append(stage))
    assert float(pair_loss(embedding, a, b, torch.zeros(N_ITEMS)).detach()) < before - 0.02
    assert {name for name, _, _ in seen} == {"item vectors"}
    assert [done == total for _, done, total in seen] == [False] * (len(seen) - 1) + [True]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_threads_add_up_the_gradients_of_a_full_batch_in_the_same_order_every_time() -> None:
    rng, n_items = np.random.default_rng(0), 40
    own = rng.normal(size=(n_items, 128)).astype(np.float32)
    none = sp.csr_matrix((n_items, 0), dtype=np.float32)
    a, b = (torch.from_numpy(rng.integers(n_items, size=BATCH_PAIRS)) for _ in range(2))

    def gradient() -> torch.Tensor:
        embedding = ItemEmbedding(own, np.zeros((0, 128), np.float32), none, np.ones(n_items, bool))
        torch.autograd.backward(pair_loss(embedding, a, b, torch.zeros(n_items)))
        assert embedding.own.grad is not None
        return embedding.own.grad.coalesce().values()

    first = gradient()
    for _ in range(30):
        torch.testing.assert_close(gradient(), first, rtol=0, atol=0)


def test_equal_seeds_give_equal_vectors_and_other_seeds_others(rng: np.random.Generator) -> None:
    events = walks(rng, tokens=True)
    first, again, other = (embed_items(events, 16, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.token_vectors, again.token_vectors)
    assert np.abs(first.vectors - other.vectors).max() > 1e-3


def test_items_of_a_topic_come_nearer_to_each_other_than_they_start_unless_the_sequences_are_shuffled(
    rng: np.random.Generator,
) -> None:
    events, noise = walks(rng), walks(rng, shuffled=True)
    start, learned = separation(start_of(events).vectors()), separation(embed_items(events, 32, 0).vectors)
    assert learned > start + 0.05
    assert abs(separation(embed_items(noise, 32, 0).vectors)) < 0.03


def test_a_new_item_with_a_known_token_lands_near_its_topic(rng: np.random.Generator) -> None:
    items = embed_items(walks(rng, tokens=True), 32, seed=0)
    new = np.stack([items.token_vectors[items.tokens[f"topic={t}"]] for t in range(N_TOPICS)])
    nearest = TOPIC[np.argsort(-(new @ items.vectors.T), axis=1)[:, :ITEMS_OF_A_TOPIC]]
    assert (nearest == np.arange(N_TOPICS)[:, None]).all()


def test_users_of_one_event_teach_nothing_and_leave_the_start() -> None:
    events = make_events(np.arange(100), np.arange(100) % 20, np.arange(100), [{}] * 20)
    embedding = start_items(events, 8, seed=0)[0]
    start = embedding.vectors()
    assert learn_items(embedding, events, 0, silent) == []
    np.testing.assert_array_equal(embedding.vectors(), start)
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1, rtol=1e-5)
