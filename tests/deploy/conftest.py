"""What tests of what is deployed need from Debian: the real programs, required in CI."""

import os
import shutil
from pathlib import Path

import pytest

PROMETHEUS = "Prometheus is not installed: `apt-get install prometheus` (for `prometheus` and `promtool`)"
CHROMIUM = "Chromium is not installed: `apt-get install chromium`"

TOOLS = Path(__file__).parents[2] / "build" / "deploy-tools" / "bin"
MAKE_TOOLS = "helm, the linters of deploy/ and kafkajs are not installed: `make deploy-tools`"


@pytest.fixture(scope="session")
def deploy_tools() -> Path:
    """The folder of helm, hadolint and the validators; without it the test is skipped, except in CI, where it fails."""
    if not (TOOLS / "helm").exists():
        assert not os.environ.get("CI"), MAKE_TOOLS
        pytest.skip(MAKE_TOOLS)
    return TOOLS


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
