"""No tensor of one device meets one of another: on a device that is pretended, where no other is."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def pretend(work: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.unit.lurm_model.pretending", work]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize("work", ["training", "encoding"])
def test_on_another_device_everything_comes_out_as_on_the_cpu(work: str) -> None:
    done = pretend(work)
    assert done.returncode == 0, done.stderr


def test_it_would_be_noticed_if_tensors_of_two_devices_met() -> None:
    done = pretend("meeting")
    assert done.returncode != 0
    assert "tensors of two devices meet: operator=add shapes_on_the_cpu=[(3,)]" in done.stderr
