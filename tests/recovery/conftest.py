"""The fixtures of whole-worker tests, here too."""

from tests.worker.conftest import (
    bundle,
    make_worker,
    one_broker,
    one_own_broker,
    one_settings,
    settings,
    settings_on,
)

__all__ = ["bundle", "make_worker", "one_broker", "one_own_broker", "one_settings", "settings", "settings_on"]
