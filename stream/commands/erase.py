"""`lurm erase`: forget a user, wait for it, and say in a receipt what was removed and what is left."""

import click

from stream.commands.progress import progress_bar
from stream.commands.user_id import refuse_bad_id
from stream.errors import LurmError
from stream.printable import say, say_json
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  lurm erase 01069 > receipt.json
  lurm erase 01069 --timeout 300 --skip-events
"""


@click.command(epilog=EXAMPLES)
@click.argument("user")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the workers.",
)
@click.option("--skip-events", is_flag=True, help="Do not read the events topic to count what it still holds.")
@click.pass_obj
def erase(settings: Settings, user: str, timeout_s: float, *, skip_events: bool) -> None:
    """Erase every row, mark, cache and embedding of USER, and every event sent so far.

    The workers do it; the command waits for them and prints a receipt (JSON). Ends with 1 when they did not answer in
    time, or when the topics, read again, still show the user. It can be run again: what is gone stays gone. Events
    sent later are a new life.
    """
    refuse_bad_id(user)
    from stream.operations.erasure_request import request, wait_for_answers, wait_for_checks  # noqa: PLC0415 - --help needs no Kafka client
    from stream.operations.receipt import Removed, make_receipt  # noqa: PLC0415

    with progress_bar("reading the embeddings") as progress:
        asked = request(settings, user, progress)
    with progress_bar("waiting for the workers") as progress:
        answers = wait_for_answers(settings, asked, timeout_s, progress)
        checks = wait_for_checks(settings, asked)
    with progress_bar("reading the topics again") as progress:
        receipt = make_receipt(settings, asked, (answers, checks), progress, with_events=not skip_events)
    say_json(receipt)
    if receipt.removed == Removed(0, 0, 0) and all(each.embedding_tombstone is None for each in receipt.partitions):
        say(f"nothing was held of this user, is the id right?: user={user}", err=True)
    if not receipt.verified.ok:
        raise LurmError(
            f"the user is still there: rows={receipt.verified.rows} embeddings={receipt.verified.embeddings} "
            f"stores={receipt.verified.stores}; the receipt says where, please report it"
        )
