"""How a worker ended is counted by itself, or as killed by its successor. Processes of their own: they really end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stream.exits import ENDINGS, ExitLog

SCRIPT = """
import logging, os, signal, sys
from pathlib import Path
from stream.errors import SourceLost
from stream.exits import ExitLog
from stream.fatal import die
from stream.worker.watchdog import Watchdog

exits = ExitLog(Path(sys.argv[1]))
logging.getLogger().addHandler(exits)
how = sys.argv[2]
if how == "stopped":
    exits.note("stopped")
elif how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "failed":
    die(ValueError("no"))
elif how == "refused":
    exits.note("refused")
    die(SourceLost("gone"))
else:
    # It was told to stop, and cannot end.
    exits.note("stopped")
    watchdog = Watchdog(list, lambda: ["the sender is dead"], 1.0)
    watchdog.run()
"""


def end(file: Path, how: str) -> int:
    return subprocess.run([sys.executable, "-c", SCRIPT, str(file), how], timeout=60, check=False).returncode


@pytest.mark.parametrize(
    ("how", "exit_code"), [("stopped", 0), ("killed", -9), ("failed", 70), ("refused", 1), ("watchdog", 70)]
)
def test_each_ending_is_counted_once_under_its_name(how: str, exit_code: int, tmp_path: Path) -> None:
    file = tmp_path / "exits.json"
    assert [end(file, how), end(file, how)] == [exit_code] * 2
    assert ExitLog(file).counts == dict.fromkeys(ENDINGS, 0) | {how: 2}


def test_a_file_of_another_version_counts_what_is_known_here(tmp_path: Path) -> None:
    file = tmp_path / "exits.json"
    file.write_text('{"running": false, "counts": {"stopped": 3, "vanished": 4}}')
    assert ExitLog(file).counts == dict.fromkeys(ENDINGS, 0) | {"stopped": 3}


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"running": false, "counts": null}'])
def test_a_file_that_says_nothing_is_begun_anew(text: str, tmp_path: Path) -> None:
    file = tmp_path / "exits.json"
    file.write_text(text)
    assert ExitLog(file).counts == dict.fromkeys(ENDINGS, 0)
    assert json.loads(file.read_text())["running"] is True
