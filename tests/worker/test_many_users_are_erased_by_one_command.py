import json
from pathlib import Path

import msgspec
import pytest

from stream.operations.receipt import Receipt
from stream.settings import Settings
from tests.erasures import check_exact_without, life, lurm
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, wait_applied


@pytest.mark.slow
def test_many_users_are_erased_by_one_command_with_a_receipt_each(
    settings: Settings, make_worker: MakeWorker, tmp_path: Path
) -> None:
    traffic = Traffic(settings, seed=74)
    users = [f"many-{number}" for number in range(300)]
    traffic.send(300)
    for user in users:
        traffic.send_these(life(user, 3))
    worker = make_worker(settings).ready()
    wait_applied(settings, worker)
    file = tmp_path / "users.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*users, "", "zoë", users[0]]).encode())
    result = lurm(settings, "erase", "user-1", "--file", str(file))
    assert result.exit_code == 0, (result.output, result.exception)
    receipts = [msgspec.json.decode(line, type=Receipt) for line in result.stdout.splitlines()]
    assert [each.user_id for each in receipts] == ["user-1", *users, "zoë"], "one each, in the order they were named"
    assert all(each.verified.ok and each.verified.outlives for each in receipts)
    assert {each.removed.rows for each in receipts[1:-1]} == {3}
    assert "user='zoë'" in result.stderr
    check_exact_without(settings, receipts)
    left = {json.loads(line)["user_id"] for line in lurm(settings, "export", "bags").stdout.splitlines()}
    assert not left & {"user-1", *users}
    # A batch of users is one transaction of each partition, not one each.
    assert worker.metric("lurm_erasures_total") == len(receipts) * settings.topics.partitions
    assert worker.terminate() == 0, worker.output()


def test_a_file_of_users_is_refused_with_the_line_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    for content, said in (
        (b"ann\nb\0b\n", "line=2"),
        (b"\xff\n", "line=1"),
        (b"a" * 257, "bytes=257"),
        (b"\n", "whom?"),
    ):
        file.write_bytes(content)
        result = lurm(Settings(), "erase", "--file", str(file))
        assert result.exit_code == 2, result.output
        assert said in result.stderr
    assert lurm(Settings(), "erase").exit_code == 2
