import numpy as np

from lurm_model.evaluation.baselines import PARTITIONS, sketch
from lurm_model.events import Events


def test_a_sketch_counts_each_users_items_in_the_buckets_of_planes_through_the_median(rng: np.random.Generator) -> None:
    n_users, n_items, n_planes = 6, 15, 3
    # Item 14 has no events and user 5 has none: neither moves a median, and the user's sketch is zero.
    user, item = rng.integers(0, n_users - 1, 40), rng.integers(0, n_items - 1, 40)
    item[: n_items - 1] = np.arange(n_items - 1)
    weight, vectors = rng.integers(1, 4, 40), rng.normal(size=(n_items, 4)).astype(np.float32)
    vectors[14] = 50
    names = [str(i) for i in range(n_items)]
    events = Events(user, item, np.arange(40), weight, names[:n_users], names, [{}] * n_items)
    found = sketch(events, vectors, PARTITIONS * 2**n_planes + 5, seed=8)

    planes, expected = np.random.default_rng(8), np.zeros((n_users, PARTITIONS, 2**n_planes))
    for partition in range(PARTITIONS):
        normals, bucket = planes.standard_normal((4, n_planes), np.float32), np.zeros(n_items, np.int64)
        for plane in range(n_planes):
            height = [float(v @ normals[:, plane]) for v in vectors]
            middle = np.median(height[: n_items - 1])
            above = [h > middle for h in height]
            bucket += np.array(above) * 2**plane
        for u, i, w in zip(user, item, weight, strict=True):
            expected[u, partition, bucket[i]] += w
    length = np.sqrt((expected**2).sum(axis=2, keepdims=True))
    expected = np.divide(expected, length, out=np.zeros_like(expected), where=length > 0)
    np.testing.assert_allclose(found, expected.reshape(n_users, -1), atol=1e-5)
    assert not found[5].any()
