"""The fixtures of whole-worker tests, here too; the workers are forked, since these tests start dozens."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stream.settings import Settings
from tests.recovery.forked import ForkedWorker
from tests.worker.conftest import MakeWorker, broker, bundle, own_broker, settings, settings_on

__all__ = ["broker", "bundle", "own_broker", "settings", "settings_on"]


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    """Makes workers, not started yet, with a log file each."""
    with ExitStack() as stack:
        made: list[ForkedWorker] = []

        def make(settings: Settings) -> ForkedWorker:
            log = tmp_path / f"worker-{len(made) + 1}.log"
            made.append(stack.enter_context(ForkedWorker(settings, log)))
            return made[-1]

        yield make
