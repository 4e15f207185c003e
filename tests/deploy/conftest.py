"""Prometheus for tests of what is deployed: the real binaries, required in CI."""

import os
import shutil

import pytest

INSTALL = "Prometheus is not installed: `apt-get install prometheus` (for `prometheus` and `promtool`)"


@pytest.fixture(scope="session")
def prometheus_tools() -> None:
    """Both binaries are there; without them the test is skipped, except in CI, where it fails."""
    if shutil.which("promtool") and shutil.which("prometheus"):
        return
    assert not os.environ.get("CI"), INSTALL
    pytest.skip(INSTALL)
