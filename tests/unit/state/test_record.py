import json

import pytest

from state.errors import FormatUnknown, SpaceMismatch, StoreCorrupt
from state.record import Ledger, PartitionRecord, decode_record, encode_record

FIRST_FORMAT = (
    b'{"interest_space_id":"805bbf5f4ecb7985","scales":"day,month","next_offset":1321,"epoch":2,"published":1300,'
    b'"model_id":"5191a6373ffa861f","ledger":{"received":7,"applied":4,"skipped":1,"rejected":2},"version":1}'
)
RECORD = PartitionRecord("805bbf5f4ecb7985", "day,month", 1321, 2, 1300, "5191a6373ffa861f", Ledger(7, 4, 1, 2))


def test_the_first_format_is_read_and_written_for_ever() -> None:
    assert decode_record(FIRST_FORMAT) == RECORD
    added = {"control_offset": 0, "erasing": {}, "source_id": ""}
    assert json.loads(encode_record(RECORD)) == json.loads(FIRST_FORMAT) | added


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
