"""What tests of what is deployed need from Debian: the real programs, required in CI."""

import os
import shutil

import pytest

PROMETHEUS = "Prometheus is not installed: `apt-get install prometheus` (for `prometheus` and `promtool`)"
CHROMIUM = "Chromium is not installed: `apt-get install chromium`"


@pytest.fixture(scope="session")
def prometheus_tools() -> None:
    """Both binaries are there; without them the test is skipped, except in CI, where it fails."""
    require(PROMETHEUS, "promtool", "prometheus")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; without it the test is skipped, except in CI, where it fails."""
    require(CHROMIUM, "chromium")
    return "chromium"


def require(install: str, *programs: str) -> None:
    if all(map(shutil.which, programs)):
        return
    assert not os.environ.get("CI"), install
    pytest.skip(install)
