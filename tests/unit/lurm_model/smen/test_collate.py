import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

from lurm_model.interests.weighting import bag_weights, inverse_frequency
from lurm_model.smen.collate import collate, user_range
from lurm_model.smen.config import SmenConfig
from state.bags import Bags, sum_pairs
from state.history import ScaleBags

CONFIG = SmenConfig(n_interests=6, d_item=4, reference_day=20, scales=("day",), d_anchor=4)
IDF = np.array([1, 2, 3, 4, 5, 0], np.float32)
# Users 0 and 3 have periods, user 1 and 2 none.
PERIODS = ScaleBags(
    np.array([0, 0, 0, 3]),
    np.array([5, 9, 22, 20]),
    np.array([0b1, 0b1101, 0, 0b11]),
    sum_pairs(np.array([0, 0, 1, 2, 3]), np.array([1, 5, 0, 2, 5], np.uint32), np.array([3, 2, 1, 1, 4], np.uint32), 4),
)


def test_a_weight_is_the_damped_count_times_the_idf_and_the_unknown_weighs_nothing() -> None:
    weights = bag_weights(PERIODS.bags, IDF)
    np.testing.assert_allclose(weights, [np.log1p(3) * 2, 0, np.log(2), np.log(2) * 3, 0], rtol=1e-6)


def test_counts_at_their_limit_still_have_a_weight() -> None:
    bags = Bags(np.array([0, 1]), np.array([0], np.uint32), np.array([2**32 - 1], np.uint32))
    np.testing.assert_allclose(bag_weights(bags, IDF), [np.log(2.0**32)], rtol=1e-6)


def test_rare_interests_weigh_more() -> None:
    idf = inverse_frequency(100, np.array([0, 1, 50, 100]))
    assert (np.diff(idf) < 0).all()
    assert idf[-1] == 1


def test_features_say_weight_gap_volume_breadth_active_days_and_date_of_each_period() -> None:
    features = collate({"day": PERIODS}, 4, CONFIG, IDF).scales["day"].features.numpy()
    norm = [(np.log1p(3) * 2) ** 2, np.log(2) ** 2, (np.log(2) * 3) ** 2, 0]
    expected = np.stack(
        [
            [1, 1, 1, 0],
            np.log1p(norm),
            np.log1p([0, 4, 13, 0]),
            np.log1p([5, 1, 1, 4]),
            np.log1p([2, 1, 1, 1]),
            np.log1p([1, 3, 1, 2]),
            [-np.log1p(15), -np.log1p(11), 0, 0],
        ],
        axis=1,
    )
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_norms_and_offsets_of_lives_span_a_users_whole_sequence() -> None:
    batch = collate({"day": PERIODS}, 4, CONFIG, IDF)
    assert batch.life.offsets.tolist() == [0, 4, 4, 4, 5]
    np.testing.assert_allclose(batch.life.norm[0, 0] ** 2, batch.scales["day"].norm_sq[:3].sum(), rtol=1e-6)
    assert not batch.life.norm[1:].any()


def test_what_was_long_ago_weighs_less_in_the_sums_that_fade() -> None:
    batch = collate({"day": PERIODS}, 4, CONFIG, IDF)
    weights = batch.scales["day"].weights.numpy()
    left = np.stack([np.ones(5), *(0.5 ** (np.array([17, 17, 13, 0, 0]) / days) for days in (30, 365))])
    np.testing.assert_allclose(batch.life.weights, left * weights, rtol=1e-6)
    np.testing.assert_allclose(batch.life.norm[0], np.linalg.norm((left * weights)[:, :4], axis=1), rtol=1e-6)


def test_sequences_are_packed_as_torch_packs_them(rng: np.random.Generator) -> None:
    lengths = rng.integers(0, 6, size=30)
    user = np.repeat(np.arange(30), lengths)
    period = np.concatenate([np.arange(n) for n in lengths])
    periods = ScaleBags(user, period, 0 * user + 1, Bags.empty(len(user)))
    batch = collate({"day": periods}, 30, CONFIG, IDF).scales["day"]
    sequences = [torch.from_numpy(np.flatnonzero(user == u)) for u in range(30) if lengths[u]]
    expected = pack_sequence(sequences, enforce_sorted=False)
    assert batch.batch_sizes.tolist() == expected.batch_sizes.tolist()
    last = {int(user[s[-1]]): len(s) for s in sequences}
    assert [last[u] for u in batch.users.tolist()] == sorted(last.values(), reverse=True)
    start = 0
    for step, size in enumerate(batch.batch_sizes.tolist()):
        rows = batch.packed[start : start + size].numpy()
        assert user[rows].tolist() == batch.users[:size].tolist()
        assert (period[rows] == step).all()
        start += size


def test_a_range_of_users_holds_their_periods_only() -> None:
    part = user_range(PERIODS, 2, 4)
    assert (part.user.tolist(), part.period.tolist()) == ([1], [20])
    assert part.bags.counts.tolist() == [4]
    assert len(user_range(PERIODS, 1, 3)) == 0
