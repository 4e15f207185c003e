"""Errors of the shell, named by what the caller does about them."""

import re
from datetime import UTC, datetime


class LurmError(Exception):
    """A message for the operator, one line with a hint; the CLI prints it and ends with ``exit_code``."""

    exit_code = 1


class ConfigInvalid(LurmError):
    """Settings, files or topics that cannot work: refuse to start."""

    exit_code = 2


class BundleMismatch(ConfigInvalid):
    """The bundle does not fit the state it is to read: refuse to start."""


class BrokerUnavailable(LurmError):
    """No broker answered before the deadline."""


class SourceLost(LurmError):
    """The source topic no longer holds what the state expects to read next: stop, never skip silently."""


class TimeRefused(LurmError):
    """The broker takes no records of this time: this machine's clock is wrong, or the topic's limits too narrow."""

    def __init__(self, where: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        super().__init__(
            f"the broker refuses the time of our records: {where} time={now}; set this machine's clock (NTP), or see "
            "message.timestamp.after.max.ms and message.timestamp.before.max.ms of the topic"
        )


class OutputLost(LurmError):
    """The topic that embeddings go to is gone: a start makes it again."""


class GroupMixed(LurmError):
    """Workers of one group that read different topics: stop, until all of them read the same."""


class SpaceMixed(LurmError):
    """Two vector spaces in one embeddings topic: their vectors cannot be compared."""


class Overtaken(LurmError):
    """Another producer has our transactional id: end, for whoever has it goes on."""

    exit_code = 70


class PermissionMissing(LurmError):
    """The broker does not let our user do something: it must be granted."""

    def __init__(self, *missing: str) -> None:
        super().__init__(
            f"the broker does not let our user do this: {', '.join(missing)}; grant it, deploy/PERMISSIONS.md lists "
            "what each command needs"
        )


# What Kafka refuses by its number: on what kind of thing, and with which operation where nobody knows better.
_FORBIDDEN = {
    29: ("topic", "Read or Write"),
    30: ("group", "Read"),
    31: ("cluster", "Create"),
    53: ("transactional id", "Write"),
}


def permission_missing(error: BaseException, operation: str = "") -> PermissionMissing | None:
    """What either client library says when the broker forbids something; None for any other error."""
    kind, usual = _FORBIDDEN.get(getattr(error, "errno", 0), ("", ""))
    # The system's errors have numbers too.
    if not kind or isinstance(error, OSError):
        return None
    named = error.args[0] if error.args else ""
    # kafka-python names a group in the middle of a sentence.
    if isinstance(named, str) and (found := re.search(r"(?:GROUP|TRANSACTION)/([^:]+):", named)):
        named = found[1]
    names = ",".join(sorted(map(str, named))) if isinstance(named, set | frozenset | list | tuple) else str(named)
    wanted = operation if operation and kind == "topic" else usual
    return PermissionMissing(f"{wanted} on {kind} {names}".strip())
