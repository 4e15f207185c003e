"""Whatever bytes reach a reader, it answers or raises an error of ours; no other exception exists."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lurm_model.bundle import FILES, MANIFEST, Bundle
from lurm_model.errors import BundleError
from state.bags import Bags
from state.errors import StateError
from state.record import PartitionRecord, decode_record, encode_record
from state.rows import decode_header, decode_rows, encode_keys, encode_values
from stream.records import embedding_record, erasure
from stream.records.events import EventDecoder, Limits
from tests.workers import tiny_bundle

N_EXAMPLES = 100
NOW_MS = 1_728_000_000_000
DECODER = EventDecoder(tiny_bundle().codebook, {"buy": 2}, Limits(65_536, 86_400_000, 0))
DEEP = b'{"user_id":"ann","item_id":"i","ts":1,"more":' + b"[" * 20_000


@dataclass
class Source:
    """A record of the events topic."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int
    headers: Sequence[tuple[str, bytes]] = ()


class Published(NamedTuple):
    """A record of the embeddings topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def json_like(*fields: str, **usual: Any) -> st.SearchStrategy[bytes]:
    """Objects with these fields, their usual values, others, or some missing; lone surrogates are escaped."""
    optional = {name: st.just(usual[name]) | json_values if name in usual else json_values for name in fields}
    return st.fixed_dictionaries({}, optional=optional).map(lambda made: json.dumps(made).encode())


@st.composite
def spoilt(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """The bytes as they are, cut, with some changed, or with something in between."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        n_gone = draw(st.sampled_from([0, 0, 1, 8]))
        data[place : place + n_gone] = draw(st.binary(max_size=4))
    return bytes(data)


events = spoilt(
    json_like("user_id", "item_id", "ts", "type", "attributes", user_id="ann", item_id="item-1", ts=NOW_MS, type="buy")
) | st.just(DEEP)


@settings(max_examples=N_EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from([b"ann", b"bob", b"\xff", b"", None]), st.none() | events), max_size=6))
def test_every_source_record_is_an_event_or_a_rejection(given_records: list[tuple[bytes | None, bytes | None]]) -> None:
    records = [Source(key, value, offset, NOW_MS) for offset, (key, value) in enumerate(given_records)]
    batch = DECODER.decode(records, NOW_MS)
    assert sorted([*batch.offset.tolist(), *(each.record.offset for each in batch.rejected)]) == list(
        range(len(records))
    )
    alone = [DECODER.decode([record], NOW_MS) for record in records]
    assert [each.rejected[0].reason for each in alone if each.rejected] == [each.reason for each in batch.rejected]


def rows() -> tuple[list[bytes], list[bytes]]:
    keys = encode_keys([b"ann", b"bob"], np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5, 0, 7]))
    bags = Bags(np.array([0, 2, 3, 3]), np.array([1, 9, 4], np.uint32), np.array([1, 2, 3], np.uint32))
    return keys, encode_values(np.array([3, 4, 5]), np.array([1, 2, 3]), bags)


KEYS, VALUES = rows()


@settings(max_examples=N_EXAMPLES)
@given(
    st.lists(st.tuples(spoilt(st.sampled_from(KEYS)), spoilt(st.sampled_from(VALUES))), max_size=4),
)
def test_rows_are_read_or_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs.sort()
    for read in (lambda: decode_rows(*map(list, zip(*pairs, strict=True))) if pairs else None,
                 lambda: decode_header([value for _, value in pairs])):  # fmt: skip
        answers_or_refuses(read, StateError)


@settings(max_examples=N_EXAMPLES)
@given(
    spoilt(st.just(encode_record(PartitionRecord("space", "day", erasing={"ann": 4}))))
    | json_like("interest_space_id", "scales", "next_offset", "ledger", "version", "erasing", version=1)
    | st.just(DEEP)
)
def test_a_partition_record_is_read_or_refused(value: bytes) -> None:
    answers_or_refuses(lambda: decode_record(value), StateError)


MARKER = erasure.Marker("id", "ann", 5, embedded=True, requested_at_ms=6)
ANSWER = erasure.Answer("id", 0, 1, 1, 2, 1, 0, 8, None, 9)


@settings(max_examples=N_EXAMPLES)
@given(st.none() | spoilt(st.sampled_from([erasure.encode(MARKER), erasure.encode(ANSWER)])) | st.just(DEEP))
def test_a_control_record_is_known_or_nothing(value: bytes | None) -> None:
    assert erasure.decode(value) is None or isinstance(
        erasure.decode(value), erasure.Marker | erasure.Answer | erasure.Checked
    )


GOOD = dict(embedding_record.shared_headers("m", "s", (2, 3), "float32"))
GOOD |= dict.fromkeys(("seq", "partition", "event_time_ms", "encoded_at_ms"), b"1")


@settings(max_examples=N_EXAMPLES)
@given(
    key=st.none() | spoilt(st.just(b"ann")),
    value=st.none() | spoilt(st.just(bytes(24))),
    changes=st.dictionaries(
        st.sampled_from(sorted(GOOD)),
        st.none() | st.sampled_from([b"-1,6", b"0,0", b"2,3", b"999999999999,9", b"9" * 5_000]) | st.binary(max_size=4),
        max_size=2,
    ),
)
def test_an_embedding_is_read_or_refused(
    key: bytes | None, value: bytes | None, changes: dict[str, bytes | None]
) -> None:
    record = Published(key, value, list({**GOOD, **changes}.items()))
    answers_or_refuses(lambda: embedding_record.decode(record), StateError)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "bundle"
    tiny_bundle().save(path)
    return path


def vouch(folder: Path) -> None:
    """Make the manifest vouch for the files as they are now, as an attacker would."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@settings(max_examples=N_EXAMPLES)
@given(st.sampled_from([MANIFEST, *FILES]), st.booleans(), st.data())
def test_a_spoilt_bundle_is_refused_also_when_its_manifest_vouches_for_it(
    folder: Path, name: str, vouched: bool, data: st.DataObject
) -> None:
    copy = folder.with_name("spoilt")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    whole = (folder / name).read_bytes()
    (copy / name).write_bytes(data.draw(spoilt(st.just(whole))))
    if vouched and name != MANIFEST:
        vouch(copy)
    answers_or_refuses(lambda: Bundle.load(copy).smen(), BundleError)


def answers_or_refuses(read: Callable[[], object], error: type[Exception]) -> None:
    with suppress(error):
        read()
