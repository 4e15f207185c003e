from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from state.options import StoreOptions, StoreResources
from state.row_copy import RowCopy

N = 4_500  # more than are read at once


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[RowCopy]:
    with closing(RowCopy(tmp_path / "rows", StoreResources(StoreOptions()))) as made:
        yield made


def test_a_copy_holds_the_newest_rows_of_each_partition_in_the_order_of_their_keys(copy: RowCopy) -> None:
    keys = [b"%05d" % i for i in range(N)]
    for number in (256, 1):
        copy.write((number, key, b"old") for key in reversed(keys))
    copy.write([(1, keys[0], None), (1, keys[1], b"new")])
    assert [row for some in copy.rows(256) for row in some] == [(key, b"old") for key in keys]
    assert [row for some in copy.rows(1) for row in some][:2] == [(keys[1], b"new"), (keys[2], b"old")]
    assert [sum(map(len, copy.rows(number))) for number in (0, 1, 2, 255, 256)] == [0, N - 1, 0, 0, N]
    assert copy.get(1, [keys[2], b"nobody", keys[0], keys[1]]) == [b"old", None, None, b"new"]
