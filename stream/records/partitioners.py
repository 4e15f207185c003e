"""Where a producer's partitioner puts a key: the hashes of Kafka's clients, over many keys at once.

All writers of a topic must agree, or the parts of one life lie in several partitions and nobody sees it whole. Java's
clients and those that follow them hash with murmur2, librdkafka by default with CRC-32, Sarama by default with FNV-1a.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from state.bags import UInt32
from state.periods import Int64

Partitioner = Literal["murmur2", "crc32", "fnv1a"]
UInt8 = NDArray[np.uint8]

_MURMUR_SEED, _MURMUR_FACTOR = np.uint32(0x9747B28C), np.uint32(0x5BD1E995)
_FNV_BASIS, _FNV_PRIME = np.uint32(0x811C9DC5), np.uint32(0x01000193)


def partitions_of(keys: Sequence[bytes], n_partitions: int, partitioner: Partitioner) -> Int64:
    """The partition of each key, int64[len(keys)], in a topic of so many partitions."""
    if not keys:
        return np.zeros(0, np.int64)
    return _HASHES[partitioner](keys).astype(np.int64) % n_partitions


def explanation(keys: Sequence[bytes], partitions: Sequence[int], n_partitions: int) -> Partitioner | None:
    """The partitioner that puts each of these keys into its partition, if there is one."""
    for each in _HASHES:
        if partitions_of(keys, n_partitions, each).tolist() == list(partitions):
            return each
    return None


def _murmur2(keys: Sequence[bytes]) -> UInt32:
    """Without the sign, as Kafka's default partitioner takes it."""
    data, starts, lengths = _joined(keys)
    n_words, hashed = lengths // 4, _MURMUR_SEED ^ lengths.astype(np.uint32)
    for i in range(int(n_words.max())):
        longer = np.flatnonzero(n_words > i)
        word = data[(starts[longer] + 4 * i)[:, None] + np.arange(4)].view("<u4")[:, 0] * _MURMUR_FACTOR
        word = (word ^ (word >> np.uint32(24))) * _MURMUR_FACTOR
        hashed[longer] = hashed[longer] * _MURMUR_FACTOR ^ word
    rest, after = lengths % 4, starts + 4 * n_words
    for i in (2, 1, 0):
        longer = np.flatnonzero(rest > i)
        hashed[longer] ^= data[after[longer] + i].astype(np.uint32) << np.uint32(8 * i)
    hashed[rest > 0] *= _MURMUR_FACTOR
    hashed = (hashed ^ (hashed >> np.uint32(13))) * _MURMUR_FACTOR
    return (hashed ^ (hashed >> np.uint32(15))) & np.uint32(0x7FFFFFFF)


def _crc32(keys: Sequence[bytes]) -> UInt32:
    return np.fromiter(map(zlib.crc32, keys), np.uint32, len(keys))


def _fnv1a(keys: Sequence[bytes]) -> UInt32:
    """Its absolute value as a signed number, as Sarama and librdkafka take it."""
    data, starts, lengths = _joined(keys)
    hashed = np.full(len(keys), _FNV_BASIS, np.uint32)
    for i in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > i)
        hashed[longer] = (hashed[longer] ^ data[starts[longer] + i]) * _FNV_PRIME
    return np.abs(hashed.view(np.int32).astype(np.int64)).astype(np.uint32)


def _joined(keys: Sequence[bytes]) -> tuple[UInt8, Int64, Int64]:
    """All bytes, and where each key starts and how long it is."""
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    return np.frombuffer(b"".join(keys), np.uint8), np.cumsum(lengths) - lengths, lengths


_HASHES: Final[Mapping[Partitioner, Callable[[Sequence[bytes]], UInt32]]] = {
    "murmur2": _murmur2,
    "crc32": _crc32,
    "fnv1a": _fnv1a,
}
