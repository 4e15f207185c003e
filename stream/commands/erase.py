"""`lurm erase`: forget users, wait for it, and say in a receipt each what was removed and what is left."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stream.commands.progress import progress_bar
from stream.commands.user_id import refuse_bad_id
from stream.errors import LurmError
from stream.printable import say, say_json
from stream.settings import Settings

if TYPE_CHECKING:
    from stream.operations.receipt import Receipt

EXAMPLES = """
\b
Examples:
  lurm erase 01069 > receipt.json
  lurm erase 01069 01070 --timeout 300 --skip-events > receipts.jsonl
  lurm erase --file users.txt > receipts.jsonl
"""


@click.command(epilog=EXAMPLES)
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="USERS",
    help="A file with a user a line, UTF-8; - is stdin. May be given more than once.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the workers' next answer.",
)
@click.option("--skip-events", is_flag=True, help="Do not read the events topic to count what it still holds.")
@click.pass_obj
def erase(
    settings: Settings, users: tuple[str, ...], files: tuple[Path, ...], timeout_s: float, *, skip_events: bool
) -> None:
    """Erase every row, mark, cache and embedding of each USER, and every event sent so far.

    The workers do it; the command waits for them and prints a receipt (JSON) a line for each user. The topics are read
    once for all users. Ends with 1 when the workers did not answer in time, or when the topics, read again, still show
    a user. It can be run again: what is gone stays gone. Events sent later are a new life. Other applications of the
    same events skip what is erased if they begin later; those that have read it must be asked too.
    """
    for user in users:
        refuse_bad_id(user)
    wanted = list(dict.fromkeys([*users, *(user for path in files for user in _users_in(path))]))
    if not wanted:
        raise click.UsageError("whom? USER, or --file USERS")
    from stream.kafka.topics import CONTROL_RETENTION_DAYS  # noqa: PLC0415
    from stream.operations.erasure_request import request, wait_for_answers  # noqa: PLC0415 - --help needs no Kafka client
    from stream.operations.receipt import make_receipts  # noqa: PLC0415

    with progress_bar("reading the embeddings") as progress:
        asked = request(settings, wanted, progress)
    with progress_bar("waiting for the workers") as progress:
        said = wait_for_answers(settings, asked, timeout_s, progress)
    unanswered = said.unanswered(asked)
    faults: list[str] = []
    if len(unanswered) < len(asked.users):
        with progress_bar("reading the topics again") as progress:
            receipts = make_receipts(settings, asked, said, progress, with_events=not skip_events)
            faults = [fault for receipt in receipts for fault in _printed(receipt)]
    if unanswered:
        partitions = sorted({number for missing in unanswered.values() for number in missing})
        some = "the erasure is" if len(asked.users) == 1 else f"{len(unanswered)} of {len(asked.users)} erasures are"
        raise LurmError(
            f"{some} not finished: partitions={partitions} waited_s={timeout_s:g}; done once a worker owns them within "
            f"{CONTROL_RETENTION_DAYS} days, which `lurm erase` run again can tell"
        )
    if faults:
        raise LurmError(faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))


def _users_in(path: Path) -> Iterator[str]:
    """The users of a file, one a line. **Raises** ``click.UsageError`` for a line that is no user."""
    with click.open_file(str(path), "rb") as lines:
        for number, line in enumerate(lines, 1):
            raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            try:
                user = raw.rstrip(b"\r\n").decode()
                if user:
                    refuse_bad_id(user)
            except (UnicodeDecodeError, click.UsageError) as error:
                raise click.UsageError(f"no user id: file={path} line={number}: {error}") from error
            if user:
                yield user


def _printed(receipt: "Receipt") -> Iterator[str]:
    """Print a receipt; what is wrong with it."""
    from stream.operations.receipt import Removed  # noqa: PLC0415

    say_json(receipt)
    verified, user = receipt.verified, receipt.user_id
    if receipt.removed == Removed(0, 0, 0) and all(each.embedding_tombstone is None for each in receipt.partitions):
        say(f"nothing was held of this user, is the id right?: user={user!r}", err=True)
    if not verified.ok:
        yield (
            f"the user is still there: rows={verified.rows} embeddings={verified.embeddings} stores={verified.stores}; "
            "the receipt says where, please report it"
        )
    if not verified.outlives:
        yield (
            f"the erasure does not outlive this application: user={user!r} is not in {receipt.left.erasures.topic}; is "
            "every worker of this version? then run it again"
        )
