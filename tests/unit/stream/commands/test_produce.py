"""What `lurm produce` reads of a file before it asks for a broker."""

import json
from pathlib import Path

import pytest

from lurm_model.files.reading import Reading
from stream.cli import run
from stream.commands.produce import Keyed, read_events
from stream.errors import ConfigInvalid

LINES = (
    '{"user_id": "v", "item_id": "i", "ts": 973036800, "price": 3}\n{"user_id": "u", "item_id": "j", "ts": 973036799}\n'
)


def test_json_lines_go_as_they_are_right_or_wrong(tmp_path: Path) -> None:
    lines = [b'{"ts": 973036800000, "user_id": "u", "price": 3}', b"no json", b'{"user_id": "u", "ts": 5}']
    (tmp_path / "e.jsonl").write_bytes(b"\n\n".join(lines))
    assert list(read_events(tmp_path / "e.jsonl")) == [
        Keyed(b"u", lines[0]),
        Keyed(None, lines[1]),
        Keyed(b"u", lines[2]),
    ]


def test_json_lines_in_seconds_are_refused_unless_the_unit_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("no json\n" + LINES)
    with pytest.raises(ConfigInvalid, match=r"--time-unit s converts .* ts=973036800 .*event=2"):
        read_events(path)
    assert run(["produce", str(path)]) == 2
    assert "looks like seconds" in capsys.readouterr().err
    path.write_text(LINES)
    events = list(read_events(path, Reading(time_unit="s")))
    assert [event.key for event in events] == [b"u", b"v"]
    assert [json.loads(event.value)["ts"] for event in events] == [973_036_799_000, 973_036_800_000]


def test_other_columns_and_dates_become_events_in_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("customer,sku,when,shelf\nu,i,2000-11-01,tea\n")
    reading = Reading.parse(["user_id=customer", "item_id=sku", "ts=when"], ["shelf"])
    (event,) = read_events(path, reading)
    assert event.key == b"u"
    assert json.loads(event.value) == {
        "user_id": "u",
        "item_id": "i",
        "ts": 973_036_800_000,
        "attributes": {"shelf": ["tea"]},
    }
    assert run(["produce", str(path), "--column", "user_id=nobody"]) == 2


def test_damaged_gzip_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"garbage" * 3)
    assert run(["produce", str(path)]) == 2
    assert f"cannot read the events: error: Error -3 while decompressing data: invalid block type file={path}" in (
        capsys.readouterr().err
    )
