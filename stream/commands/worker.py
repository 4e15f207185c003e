"""`lurm worker`: check everything that can be wrong, then run until told to stop."""

import logging
import os
import signal
import sys
from pathlib import Path

import click

from state.lock import locked
from stream import failpoints
from stream.errors import BundleMismatch, ConfigInvalid
from stream.printable import configure_logging
from stream.settings import Settings
from stream.worker.descriptors import open_files_max, raise_limit

EXAMPLES = """
\b
Examples:
  LURM_STATE__DIR=/var/lib/lurm LURM_MODEL__BUNDLE=bundle lurm worker
  lurm --config lurm.toml worker
"""


@click.command(epilog=EXAMPLES)
@click.pass_obj
def worker(settings: Settings) -> None:
    """Consume events, keep the users' bags, and publish their embeddings.

    Settings, files and bundle are checked before the broker is asked (exit code 2); a broker that does not answer
    within kafka.start_deadline_s ends the worker with 1, and anything that leaves its work in doubt with 70.
    """
    # Nothing is held until Faust takes the signal over: a stop while torch is imported is a clean one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _configure_logging(settings.worker.log_level)
    failpoints.arm_from_environment()
    folder = _writable_folder(settings.state.dir) / settings.app.id
    open_files_max(settings, raise_limit())
    with locked(folder):
        _work(settings, folder)


def _work(settings: Settings, folder: Path) -> None:
    if settings.kafka.request_timeout_s < settings.kafka.session_timeout_s:
        # Joining the group takes as long as the session of a member that died.
        raise ConfigInvalid(
            "a request must be allowed to take longer than a session: "
            f"kafka.request_timeout_s={settings.kafka.request_timeout_s:g} "
            f"kafka.session_timeout_s={settings.kafka.session_timeout_s:g}; set LURM_KAFKA__REQUEST_TIMEOUT_S"
        )
    # torch takes seconds to import: what can be said without it is said first.
    from lurm_model.bundle import Bundle  # noqa: PLC0415
    from state.periods import format_scales, parse_scales  # noqa: PLC0415
    from stream.kafka.topics import ensure  # noqa: PLC0415

    if settings.model.bundle is None:
        raise ConfigInvalid("no model: set LURM_MODEL__BUNDLE to a folder made by `lurm train`")
    bundle = Bundle.load(settings.model.bundle)
    scales = parse_scales(settings.state.scales) if settings.state.scales else bundle.scales
    if scales != bundle.scales:
        raise BundleMismatch(
            f"the bundle was trained with other scales: bundle={format_scales(bundle.scales)} "
            f"settings={format_scales(scales)}; unset LURM_STATE__SCALES or train again"
        )
    _refuse_other_space(folder, bundle.codebook.interest_space_id, format_scales(scales))
    ensure(settings, bundle.codebook.n_interests)
    from stream.worker.app import Worker  # noqa: PLC0415

    Worker(settings, bundle).execute()


def _configure_logging(level: str) -> None:
    configure_logging(level)
    # Faust logs every service's start under the name of the module that extends it; our own lines are `lurm`'s.
    for noisy in ("faust", "mode", "aiokafka", "asyncio", "stream"):
        logging.getLogger(noisy).setLevel("WARNING" if level != "DEBUG" else "DEBUG")
    # Only the checks at the start use it, and what matters of their failures is raised.
    logging.getLogger("kafka").setLevel("CRITICAL" if level != "DEBUG" else "DEBUG")
    logging.getLogger("aiokafka.consumer.group_coordinator").addFilter(warn_of_retries)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing("aiokafka"))


def warn_of_retries(record: logging.LogRecord) -> bool:
    """Make a warning of an error that aiokafka tries again after, as it does until a new broker knows its groups."""
    if isinstance(record.args, tuple) and any(getattr(value, "retriable", False) for value in record.args):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


class Sparing(logging.Filter):
    """Lets a library repeat a message only every ten seconds: while a broker is away, each client says so for ever."""

    def __init__(self, library: str, interval_s: float = 10.0) -> None:
        super().__init__(library)
        self._interval_s = interval_s
        self._said_at_s: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged: all of other libraries is."""
        if not super().filter(record):
            return True
        said_at_s = self._said_at_s.get(record.msg)
        if said_at_s is not None and record.created - said_at_s < self._interval_s:
            return False
        self._said_at_s[record.msg] = record.created
        return True


def _writable_folder(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigInvalid("no folder for the state: set LURM_STATE__DIR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(f"cannot make the state's folder: {error.strerror} path={folder}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigInvalid(f"cannot write to the state's folder: path={folder}")
    return folder


def _refuse_other_space(folder: Path, interest_space_id: str, scales: str) -> None:
    """Refuse a bundle that does not fit the state on disk, before anything is read from the broker."""
    from state.errors import SpaceMismatch  # noqa: PLC0415
    from state.options import StoreOptions, StoreResources  # noqa: PLC0415
    from state.store import BagStore  # noqa: PLC0415

    for path in sorted(folder.glob("partition-*")):
        store = BagStore(path, StoreResources(StoreOptions()))
        try:
            if store.record is not None:
                store.record.refuse_other(interest_space_id, scales)
        except SpaceMismatch as error:
            raise BundleMismatch(f"{error}; use the bundle the state was made with, or another LURM_APP__ID") from error
        finally:
            store.close()
