"""The bytes of a row: its key and its value, for whole batches.

Key: ``user id (UTF-8, no NUL), NUL, scale code (1 byte), period + 2^31 (4 bytes, big-endian)``: a user's rows are
neighbours, and within a scale in order of time. Value, little-endian, a multiple of 8 bytes: ``seq`` (int64), format
version (top byte) over the newest event time + 2^55 (low 56 bits, ms), in version 2 the bits of the active days
(int64), then (interest, count) pairs of uint32. A row that knows of no such bits, as a day's, is of version 1.
Nothing in a row is derived from the model. Keys that start with a NUL are the state's own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from state.bags import Bags, sum_bags
from state.errors import FormatUnknown, StoreCorrupt
from state.history import Rows
from state.periods import SCALE_BY_CODE, Int64

VERSION, VERSION_WITH_ACTIVE = 1, 2
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
    """The sequence number of a source record; it grows even when a recreated topic starts at offset 0 again.

    A sum, so that it also grows past offset 2^40; what comes then is in the next epoch's numbers (`epoch_after`).
    """
    return (epoch << SEQ_EPOCH_BITS) + offset


def epoch_after(epoch: int, next_offset: int) -> int:
    """The first epoch whose every ``seq`` is higher than what an epoch has reached."""
    return (seq_of(epoch, next_offset) >> SEQ_EPOCH_BITS) + 1


def is_row_key(key: bytes) -> bool:
    """Whether it is a row's, or one of the state's own."""
    return not key.startswith(b"\0")


def row_bytes_max(n_interests: int) -> int:
    """Key and value of the largest row there can be: one pair for each interest."""
    return _USER_BYTES_MAX + _KEY_TAIL + 8 * (_HEADER_WORDS + 1 + n_interests)


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


def encode_values(seq: Int64, event_time_ms: Int64, bags: Bags, active: Int64 | None = None) -> list[bytes]:
    """Row values. **Shapes**: seq, event_time_ms and active int64[r], 0 where it is not known; ``bags`` has r bags."""
    n = len(bags)
    active = np.zeros(n, np.int64) if active is None else active
    known = active != 0
    lengths = _HEADER_WORDS + known + np.diff(bags.offsets)
    starts = np.cumsum(lengths) - lengths
    words = np.empty(int(lengths.sum()), "<i8")
    pairs = _pair_words(len(words), starts, known)
    body = np.empty(len(bags.interests), PAIR)
    body["interest"], body["count"] = bags.interests, bags.counts
    words[pairs] = body.view("<i8")
    words[starts] = seq
    version = np.where(known, VERSION_WITH_ACTIVE, VERSION)
    words[starts + 1] = (version << 56) | (event_time_ms + _TIME_BIAS)
    words[starts[known] + _HEADER_WORDS] = active[known]
    raw = words.tobytes()
    begin = (starts * 8).tolist()
    end = [*begin[1:], len(raw)]
    return [raw[a:b] for a, b in zip(begin, end, strict=True)]


def sum_values(some: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """The values that count what both of each pair count, as new as the newer one."""
    n = len(some)
    seq, event_time_ms, bags, active = decode_values([*some, *others])
    newest, newest_ms = seq.reshape(2, n).max(0), event_time_ms.reshape(2, n).max(0)
    both = np.bitwise_or.reduce(active.reshape(2, n), axis=0)
    return encode_values(newest, newest_ms, sum_bags(np.tile(np.arange(n), 2), bags, n), both)


def decode_header(values: Sequence[bytes]) -> tuple[Int64, Int64]:
    """Only ``seq`` and event_time_ms of these values, int64[r] each.

    **Raises** `StoreCorrupt` for a length no row has, `FormatUnknown` for another version.
    """
    n_bytes = np.fromiter(map(len, values), np.int64, len(values))
    _refuse_wrong_length(n_bytes)
    words = np.frombuffer(b"".join(values), "<i8")
    starts = np.cumsum(n_bytes // 8) - n_bytes // 8
    return _split_header(words[starts], words[starts + 1])[:2]


def decode_values(values: Sequence[bytes]) -> tuple[Int64, Int64, Bags, Int64]:
    """The inverse of `encode_values`: int64[r] but for the bags, ``active`` 0 where it is not known.

    **Raises** as `decode_header`.
    """
    n_bytes = np.fromiter(map(len, values), np.int64, len(values))
    _refuse_wrong_length(n_bytes)
    words = np.frombuffer(b"".join(values), "<i8")
    starts = np.cumsum(n_bytes // 8) - n_bytes // 8
    seq, event_time_ms, known = _split_header(words[starts], words[starts + 1])
    n_pairs = n_bytes // 8 - _HEADER_WORDS - known
    if np.any(n_pairs < 0):
        raise StoreCorrupt("a row says that it knows its active days, and ends before them")
    active = np.zeros(len(values), np.int64)
    active[known] = words[starts[known] + _HEADER_WORDS]
    offsets = np.concatenate([[0], np.cumsum(n_pairs)]).astype(np.int64)
    body = words[_pair_words(len(words), starts, known)].view(PAIR)
    bags = Bags(offsets, body["interest"].astype(np.uint32), body["count"].astype(np.uint32))
    return seq, event_time_ms, bags, active


def _pair_words(n_words: int, starts: Int64, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which words are pairs: all but the headers, which have one word more where active days are known."""
    pairs = np.ones(n_words, bool)
    for word in range(_HEADER_WORDS):
        pairs[starts + word] = False
    pairs[starts[known] + _HEADER_WORDS] = False
    return pairs


def _refuse_wrong_length(n_bytes: Int64) -> None:
    wrong = n_bytes[(n_bytes % 8 != 0) | (n_bytes < 8 * _HEADER_WORDS)]
    if len(wrong):
        raise StoreCorrupt(f"a row has a length that no row can have: bytes={wrong[0]}")


def _split_header(seq: Int64, tagged: Int64) -> tuple[Int64, Int64, NDArray[np.bool_]]:
    """``seq``, event_time_ms, and whether the row knows its active days."""
    version = tagged >> 56
    known = version == VERSION_WITH_ACTIVE
    unknown = version[~known & (version != VERSION)]
    if len(unknown):
        raise FormatUnknown(f"a row has an unknown format: version={unknown[0]} known={VERSION},{VERSION_WITH_ACTIVE}")
    return seq.astype(np.int64), (tagged & _TIME_MASK).astype(np.int64) - _TIME_BIAS, known


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
    seq, event_time_ms, bags, active = decode_values(values)
    return users, Rows(user, scale, period, seq, event_time_ms, active, bags)
