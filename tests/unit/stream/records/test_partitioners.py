import random

import pytest
from aiokafka.partitioner import murmur2

from stream.records.partitioners import Partitioner, explanation, partitions_of

KEYS = [
    b"a", b"ann", b"user-0", b"user-12345", b"u42", b"1", b"01069", "käte".encode(), b"x" * 256, b"abcd",
    b"abcdefg\xff",
]  # fmt: skip
# Where librdkafka 2.16 put these keys in a topic of 97 partitions on Kafka 4.3.1, by its property `partitioner`.
LIBRDKAFKA: dict[Partitioner, list[int]] = {
    "murmur2": [49, 31, 65, 62, 65, 25, 9, 75, 11, 5, 5],  # murmur2_random
    "crc32": [80, 77, 41, 94, 83, 63, 31, 26, 26, 50, 4],  # consistent_random, the default
    "fnv1a": [49, 20, 1, 59, 4, 4, 82, 2, 18, 48, 21],  # fnv1a_random
}


@pytest.mark.parametrize("partitioner", LIBRDKAFKA)
def test_keys_go_where_librdkafka_puts_them(partitioner: Partitioner) -> None:
    assert partitions_of(KEYS, 97, partitioner).tolist() == LIBRDKAFKA[partitioner]
    assert partitions_of([], 97, partitioner).tolist() == []


def test_murmur2_of_many_keys_is_that_of_each() -> None:
    pick = random.Random(5)
    keys = [pick.randbytes(pick.randrange(257)) for _ in range(2000)]
    assert partitions_of(keys, 1009, "murmur2").tolist() == [(murmur2(key) & 0x7FFFFFFF) % 1009 for key in keys]


def test_the_partitioner_that_explains_a_place_is_named() -> None:
    assert explanation([KEYS[3], KEYS[0]], [94, 80], 97) == "crc32"
    assert explanation([KEYS[3]], [62], 97) == "murmur2"
    assert explanation(KEYS[:2], [62, 62], 97) is None
