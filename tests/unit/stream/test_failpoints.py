"""Failpoints end real processes, so they are tried on some."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream.errors import ConfigInvalid
from stream.failpoints import STEPS, VARIABLE, arm_from_environment

# Passes three steps five times; prints after each round what it has done.
SCRIPT = """
from stream.failpoints import arm_from_environment, passing
arm_from_environment()
for done in range(1, 6):
    passing("batch.sent")
    passing("batch.committed")
    passing("encode.sent")
    print(done, flush=True)
"""


def process(failpoint: str | None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if failpoint is None else {VARIABLE: failpoint})
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("failpoint", [None, "", "batch.merged:2", "batch.sent:6", "encode.sent:5=0"])
def test_a_step_that_is_not_armed_does_nothing(failpoint: str | None) -> None:
    done = process(failpoint)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "2", "3", "4", "5"]), done.stderr


@pytest.mark.parametrize(("failpoint", "n_done"), [("batch.sent", 0), ("batch.committed:3", 2), ("encode.sent:5", 4)])
def test_the_process_is_killed_at_the_passage_that_is_named(failpoint: str, n_done: int) -> None:
    done = process(failpoint)
    assert (done.returncode, len(done.stdout.split())) == (-signal.SIGKILL, n_done), done.stderr


def test_another_signal_can_be_named() -> None:
    assert process("batch.sent:2=SIGTERM").returncode == -signal.SIGTERM


def test_a_passage_can_fail() -> None:
    done = process("batch.sent:2=raise")
    assert (done.returncode, done.stdout.split()) == (1, ["1"])
    assert "RuntimeError: raised at a failpoint: step=batch.sent" in done.stderr


def test_a_passage_can_be_delayed() -> None:
    start = time.monotonic()
    assert process("batch.sent:5=0.5").stdout.split() == ["1", "2", "3", "4", "5"]
    assert time.monotonic() - start >= 0.5


def test_every_passage_from_the_one_that_is_named_can_be_delayed() -> None:
    start = time.monotonic()
    assert process("batch.sent:4+=0.5").stdout.split() == ["1", "2", "3", "4", "5"]
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    "text", ["batch", "batch.commited:1", "batch.sent:0", "batch.sent:", "batch.sent=SIGNONE", "batch.sent=", "x"]
)
def test_what_names_no_failpoint_is_refused_with_the_list(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigInvalid) as refused:
        arm_from_environment()
    assert all(step in str(refused.value) for step in STEPS)


def test_a_worker_with_an_unknown_failpoint_does_not_start() -> None:
    environment = os.environ | {VARIABLE: "batch.lost:1"}
    lurm = Path(sys.executable).with_name("lurm")
    done = subprocess.run([lurm, "worker"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "no such failpoint: LURM_FAILPOINT=batch.lost:1" in done.stderr
