import json

import pytest

from state.errors import FormatUnknown, SpaceMismatch, StoreCorrupt
from state.record import Ledger, PartitionRecord, decode_record, encode_record
from state.walk import Output, Walk

FIRST_FORMAT = (
    b'{"interest_space_id":"805bbf5f4ecb7985","scales":"day,month","next_offset":1321,"epoch":2,"published":1300,'
    b'"model_id":"5191a6373ffa861f","ledger":{"received":7,"applied":4,"skipped":1,"rejected":2},"version":1}'
)
RECORD = PartitionRecord("805bbf5f4ecb7985", "day,month", 1321, 2, 1300, "5191a6373ffa861f", Ledger(7, 4, 1, 2))


def test_the_first_format_is_read_and_written_for_ever() -> None:
    assert decode_record(FIRST_FORMAT) == RECORD
    added = {
        "control_offset": 0,
        "erasing": {},
        "source_id": "",
        "erasures_id": "",
        "erasures_offset": 0,
        "leader_epoch": -1,
        "embeddings_end": 0,
        "control_id": "",
    }
    where = {"embeddings_topic": "", "embeddings_id": "", "walk": None}
    assert json.loads(encode_record(RECORD)) == json.loads(FIRST_FORMAT) | added | where


def test_a_walk_under_way_is_read_for_ever() -> None:
    walk = b'{"to":{"model_id":"b","topic":"emb","topic_id":"x"},"after":"em/Dqw=="}'
    found = decode_record(FIRST_FORMAT[:-1] + b',"embeddings_topic":"emb","embeddings_id":"x","walk":' + walk + b"}")
    assert found.output == Output("5191a6373ffa861f", "emb", "x")
    assert found.walk == Walk(Output("b", "emb", "x"), "zoë".encode())
    assert decode_record(encode_record(found)) == found


A, B = Output("a", "emb", "1"), Output("b", "emb", "1")
ANEW, RENAMED, OLD_BROKER = Output("a", "emb", "2"), Output("a", "other", "3"), Output("a", "emb")


@pytest.mark.parametrize(
    ("known", "now", "after"),
    [
        ((A, None), A, None),
        ((A, None), B, b""),
        ((A, None), ANEW, b""),
        ((A, None), RENAMED, b""),
        ((A, None), OLD_BROKER, None),
        ((Output("a"), None), A, None),
        ((Output(), None), A, b""),
        ((A, Walk(B, b"mo")), B, b"mo"),
        ((A, Walk(B, b"mo")), A, b""),
        ((A, Walk(B, b"mo")), Output("b", "emb", "2"), b""),
        ((A, Walk(ANEW, b"mo")), A, b""),
    ],
)
def test_a_walk_begins_unless_everybodys_embedding_is_there_or_one_is_on_its_way(
    known: tuple[Output, Walk | None], now: Output, after: bytes | None
) -> None:
    last, walk = known
    record = RECORD.publishing(last, None)
    record = record if walk is None else record.publishing(walk.to, walk)
    found = record.walk_to(now)
    assert (None if found is None else found.after) == after
    assert found is None or found.to == now


def test_what_an_old_record_or_broker_does_not_say_is_filled_in_and_kept() -> None:
    assert RECORD.publishing(Output(RECORD.model_id, "emb", "1"), None).output == Output(RECORD.model_id, "emb", "1")
    assert RECORD.publishing(A, None).publishing(OLD_BROKER, None).output == A


def test_another_format_is_refused() -> None:
    with pytest.raises(FormatUnknown, match="version=2 known=1"):
        decode_record(json.dumps(json.loads(FIRST_FORMAT) | {"version": 2}).encode())


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"scales":"day"}', b"\xff"])
def test_what_is_no_record_is_corrupt(value: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        decode_record(value)


def test_another_space_or_other_scales_are_refused() -> None:
    RECORD.refuse_other("805bbf5f4ecb7985", "day,month")
    with pytest.raises(SpaceMismatch, match="another codebook: state=805bbf5f4ecb7985 bundle=x"):
        RECORD.refuse_other("x", "day,month")
    with pytest.raises(SpaceMismatch, match="other scales: state=day,month settings=day"):
        RECORD.refuse_other("805bbf5f4ecb7985", "day")


def test_a_ledger_balances_when_nothing_is_lost() -> None:
    assert Ledger(7, 4, 1, 2).balanced
    assert not Ledger(8, 4, 1, 2).balanced
    assert Ledger(7, 4, 1, 2) + Ledger(1, 1) == Ledger(8, 5, 1, 2)
