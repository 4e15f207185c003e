"""What `lurm produce` reads of a file before it asks for a broker."""

import json
from pathlib import Path

import numpy as np
import pytest

from lurm_model.errors import EventsFileError
from lurm_model.files.datasets import load_events
from lurm_model.files.lines import LINE_BYTES_MAX
from lurm_model.files.reading import Reading
from stream.cli import run
from stream.commands.produce import Keyed, read_events
from stream.commands.spans import Span
from stream.errors import ConfigInvalid

GOOD = '{"user_id": "u", "item_id": "i", "ts": 973036800000}\n'
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


@pytest.mark.parametrize(
    ("ts", "reason"),
    [
        ('"2001-01-01T10:00:00"', "no whole number of milliseconds.* --time-unit iso"),
        ("973036800.5", "no whole number of milliseconds.* write whole numbers"),
        ("973036800000000", "microseconds, --time-unit us converts"),
        ("973036800000000000", "nanoseconds, --time-unit ns converts"),
        ("20240105103000", "a date as a number, --time-unit %Y%m%d%H%M%S converts"),
    ],
)
def test_lines_that_the_worker_would_all_reject_or_misread_are_refused(tmp_path: Path, ts: str, reason: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(f'{{"user_id": "u", "item_id": "i", "ts": {ts}}}\n' * 3)
    with pytest.raises(ConfigInvalid, match=reason):
        read_events(path)


@pytest.mark.parametrize(
    ("user", "item", "option"),
    [
        ("5", '"i"', "--column user_id=user_id converts whole numbers"),
        ('"u"', "5", "--column item_id=item_id converts whole numbers"),
        ('"17850.0"', '"i"', "--column user_id=user_id converts the file"),
        ('"u"', '"17850.00"', "--column item_id=item_id converts the file"),
    ],
)
def test_lines_whose_ids_are_others_to_the_worker_than_to_the_training_are_refused(
    tmp_path: Path, user: str, item: str, option: str
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(f'{{"user_id": {user}, "item_id": {item}, "ts": 973036800000}}\n' * 3)
    with pytest.raises(ConfigInvalid, match=option):
        read_events(path)
    sent = list(read_events(path, Reading.parse(["user_id=user_id", "item_id=item_id"])))
    trained = load_events([path], reading=Reading.parse(["user_id=user_id", "item_id=item_id"]))
    assert {event.key for event in sent} == {user.encode() for user in trained.users}
    assert {json.loads(event.value)["item_id"] for event in sent} == {*trained.items}


def test_some_bad_ids_among_good_ones_are_left_to_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"user_id": 5, "item_id": 6, "ts": 973036800000}\n' + GOOD)
    assert [event.key for event in read_events(path)] == [None, b"u"]


def test_a_byte_order_mark_and_a_line_that_never_ends_are_told_apart_from_events(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert list(read_events(path)) == [Keyed(b"u", GOOD.strip().encode())]
    path.write_text(GOOD + "x" * (LINE_BYTES_MAX + 2**21))
    with pytest.raises(EventsFileError, match="a line is longer"):
        read_events(path)


def test_a_line_keeps_its_key_whatever_its_time_is(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    lines = [f'{{"user_id": "u", "ts": {ts}}}' for ts in ("973036800000", "{}", "1" + "0" * 40, "null", '"x"', "1e3")]
    path.write_text("\n".join(lines))
    assert [event.key for event in read_events(path)] == [b"u"] * 6


def test_the_span_of_what_is_sent_is_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    stamps = [973_036_800_000 + i * 86_400_000 for i in range(3)] + [5, 10**14 - 1]
    path.write_text("".join(f'{{"user_id": "u", "item_id": "i", "ts": {ts}}}\n' for ts in stamps))
    span = Span(now_ms=10**12)
    assert len(list(read_events(path, span=span))) == 5
    assert (span.n, span.first_ms, span.last_ms, span.n_old, span.n_future) == (5, 5, 10**14 - 1, 1, 1)


def test_a_span_is_said_with_what_looks_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    span = Span(now_ms=10**12)
    span.add(np.array([5, 7]))
    span.say()
    said = capsys.readouterr().err
    assert "events=2 from 1970-01-01 00:00:00 to 1970-01-01 00:00:00 UTC" in said
    assert "all events lie within one day" in said
    assert "2 of 2 events are before the year 2000; is the unit of ts right? --time-unit names it" in said
    late = Span(now_ms=0)
    late.add(np.array([973_036_800_000, 10**12]))
    late.say()
    assert "2 of 2 events are in the future" in capsys.readouterr().err
