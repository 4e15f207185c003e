"""The user ids that commands take: those that an event can have."""

import click

from stream.records.events import ID_BYTES_MAX


def refuse_bad_id(user: str) -> None:
    """**Raises** ``click.UsageError`` for an id that no event can have."""
    try:
        n_bytes = len(user.encode())
    except UnicodeEncodeError as error:
        raise click.UsageError("a user id is valid UTF-8") from error
    if not 1 <= n_bytes <= ID_BYTES_MAX or "\0" in user:
        raise click.UsageError(f"a user id has 1 to {ID_BYTES_MAX} bytes and no NUL: bytes={n_bytes}")
