"""The bytes of a row: its key and its value, for whole batches.

Key: ``user id (UTF-8, no NUL), NUL, scale code (1 byte), period + 2^31 (4 bytes, big-endian)``: a user's rows are
neighbours, and within a scale in order of time. Value, little-endian, a multiple of 8 bytes: ``seq`` (int64), format
version (top byte) over the newest event time + 2^55 (low 56 bits, ms), then (interest, count) pairs of uint32.
Nothing in a row is derived from the model. Keys that start with a NUL are the state's own.
"""

from collections.abc import Sequence

import numpy as np

from state.bags import Bags, sum_bags
from state.errors import FormatUnknown, StoreCorrupt
from state.history import Rows
from state.periods import SCALE_BY_CODE, Int64

VERSION = 1
RECORD_KEY = b"\0partition"
SEQ_EPOCH_BITS = 40
EPOCH_MAX = (1 << (63 - SEQ_EPOCH_BITS)) - 1

_HEADER_WORDS = 2
_TIME_BIAS = 1 << 55
_TIME_MASK = (1 << 56) - 1
_PERIOD_BIAS = 1 << 31
_KEY_TAIL = 1 + 1 + 4  # NUL, scale, period
_USER_BYTES_MAX = 256
PAIR = np.dtype([("interest", "<u4"), ("count", "<u4")])

# What is put under a key of the store; None deletes.
Write = tuple[bytes, bytes | None]


def seq_of(epoch: int, offset: int) -> int:
    """The sequence number of a source record; it grows even when a recreated topic starts at offset 0 again."""
    return (epoch << SEQ_EPOCH_BITS) | offset


def is_row_key(key: bytes) -> bool:
    """Whether it is a row's, or one of the state's own."""
    return not key.startswith(b"\0")


def row_bytes_max(n_interests: int) -> int:
    """Key and value of the largest row there can be: one pair for each interest."""
    return _USER_BYTES_MAX + _KEY_TAIL + 8 * (_HEADER_WORDS + n_interests)


def encode_keys(users: Sequence[bytes], user: Int64, scale: Int64, period: Int64) -> list[bytes]:
    """Row keys. **Shapes**: user (index into ``users``), scale (code) and period int64[r]."""
    tails = np.empty((len(user), _KEY_TAIL), np.uint8)
    tails[:, 0] = 0
    tails[:, 1] = scale
    tails[:, 2:] = (period + _PERIOD_BIAS).astype(">u4").view(np.uint8).reshape(-1, 4)
    raw = tails.tobytes()
    ends = range(0, len(raw), _KEY_TAIL)
    return [users[u] + raw[end : end + _KEY_TAIL] for u, end in zip(user.tolist(), ends, strict=True)]


def user_of(key: bytes) -> bytes:
    """The user id of a row's key."""
    return key[:-_KEY_TAIL]


def scan_range(user: bytes) -> tuple[bytes, bytes]:
    """First key and first key after all rows of a user."""
    return user + b"\0", user + b"\x01"


def encode_values(seq: Int64, event_time_ms: Int64, bags: Bags) -> list[bytes]:
    """Row values. **Shapes**: seq and event_time_ms int64[r]; ``bags`` has r bags."""
    n = len(bags)
    starts = bags.offsets[:-1] + _HEADER_WORDS * np.arange(n)
    words = np.empty(len(bags.interests) + _HEADER_WORDS * n, "<i8")
    pairs = np.ones(len(words), bool)
    pairs[starts] = False
    pairs[starts + 1] = False
    body = np.empty(len(bags.interests), PAIR)
    body["interest"], body["count"] = bags.interests, bags.counts
    words[pairs] = body.view("<i8")
    words[starts] = seq
    words[starts + 1] = (VERSION << 56) | (event_time_ms + _TIME_BIAS)
    raw = words.tobytes()
    begin = (starts * 8).tolist()
    end = [*begin[1:], len(raw)]
    return [raw[a:b] for a, b in zip(begin, end, strict=True)]


def sum_values(some: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """The values that count what both of each pair count, as new as the newer one."""
    n = len(some)
    seq, event_time_ms, bags = decode_values([*some, *others])
    owner = np.tile(np.arange(n), 2)
    return encode_values(seq.reshape(2, n).max(0), event_time_ms.reshape(2, n).max(0), sum_bags(owner, bags, n))


def decode_header(values: Sequence[bytes]) -> tuple[Int64, Int64]:
    """Only ``seq`` and event_time_ms of these values, int64[r] each.

    **Raises** `StoreCorrupt` for a length no row has, `FormatUnknown` for another version.
    """
    n_bytes = np.fromiter(map(len, values), np.int64, len(values))
    _refuse_wrong_length(n_bytes)
    words = np.frombuffer(b"".join(values), "<i8")
    starts = np.cumsum(n_bytes // 8) - n_bytes // 8
    return _split_header(words[starts], words[starts + 1])


def decode_values(values: Sequence[bytes]) -> tuple[Int64, Int64, Bags]:
    """The inverse of `encode_values`: seq int64[r], event_time_ms int64[r], r bags; raises as `decode_header`."""
    n_bytes = np.fromiter(map(len, values), np.int64, len(values))
    _refuse_wrong_length(n_bytes)
    words = np.frombuffer(b"".join(values), "<i8")
    offsets = np.concatenate([[0], np.cumsum(n_bytes // 8 - _HEADER_WORDS)]).astype(np.int64)
    starts = offsets[:-1] + _HEADER_WORDS * np.arange(len(values))
    seq, event_time_ms = _split_header(words[starts], words[starts + 1])
    pairs = np.ones(len(words), bool)
    pairs[starts] = False
    pairs[starts + 1] = False
    body = words[pairs].view(PAIR)
    return seq, event_time_ms, Bags(offsets, body["interest"].astype(np.uint32), body["count"].astype(np.uint32))


def _refuse_wrong_length(n_bytes: Int64) -> None:
    wrong = n_bytes[(n_bytes % 8 != 0) | (n_bytes < 8 * _HEADER_WORDS)]
    if len(wrong):
        raise StoreCorrupt(f"a row has a length that no row can have: bytes={wrong[0]}")


def _split_header(seq: Int64, tagged: Int64) -> tuple[Int64, Int64]:
    version = tagged >> 56
    if np.any(version != VERSION):
        raise FormatUnknown(f"a row has an unknown format: version={version[version != VERSION][0]} known={VERSION}")
    return seq.astype(np.int64), (tagged & _TIME_MASK).astype(np.int64) - _TIME_BIAS


def decode_keys(keys: Sequence[bytes]) -> tuple[list[bytes], Int64, Int64, Int64]:
    """The inverse of `encode_keys`: distinct users in order of appearance, then user, scale, period int64[r].

    **Raises** `StoreCorrupt` for a key that is no row's.
    """
    scale, period = decode_tails(keys)
    index: dict[bytes, int] = {}
    add = index.setdefault
    user = np.fromiter([add(key[:-_KEY_TAIL], len(index)) for key in keys], np.int64, len(keys))
    return list(index), user, scale, period


def decode_tails(keys: Sequence[bytes]) -> tuple[Int64, Int64]:
    """Scale and period of row keys, int64[r] each. **Raises** `StoreCorrupt` for a key that is no row's."""
    tails = np.frombuffer(b"".join([key[-_KEY_TAIL:] for key in keys]), np.uint8)
    if len(tails) != _KEY_TAIL * len(keys):
        raise StoreCorrupt(f"a key is shorter than a row's key: key={min(keys, key=len)!r}")
    tails = tails.reshape(-1, _KEY_TAIL)
    scale = tails[:, 1].astype(np.int64)
    if np.any(tails[:, 0]) or not np.isin(scale, list(SCALE_BY_CODE)).all():
        raise StoreCorrupt("a key does not end with a known scale")
    return scale, np.frombuffer(tails[:, 2:].tobytes(), ">u4").astype(np.int64) - _PERIOD_BIAS


def decode_rows(keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[list[bytes], Rows]:
    """Users and their rows; rows of one user must be neighbours."""
    users, user, scale, period = decode_keys(keys)
    seq, event_time_ms, bags = decode_values(values)
    return users, Rows(user, scale, period, seq, event_time_ms, bags)
