"""`lurm repartition`: the same state under another application id, with another number of partitions."""

import shlex
from contextlib import ExitStack
from typing import get_args

import click
import msgspec

from stream import failpoints
from stream.commands.progress import progress_bar
from stream.printable import say
from stream.records.partitioners import Partitioner
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  lurm repartition --to-app lurm8 --to-events events8 --partitions 8
  lurm repartition --to-app lurm8 --to-events events8 --partitions 8 --to-embeddings vectors8
"""


@click.command(epilog=EXAMPLES)
@click.option("--to-app", required=True, metavar="ID", help="Another application id.")
@click.option("--to-events", required=True, metavar="TOPIC", help="Another events topic; made when missing.")
@click.option("--partitions", required=True, type=click.IntRange(1, 10_000), help="Partitions of the new topics.")
@click.option(
    "--partitioner",
    type=click.Choice(get_args(Partitioner)),
    help="How the producers of the new events topic place users. [default: LURM_TOPICS__PARTITIONER]",
)
@click.option("--to-embeddings", metavar="TOPIC", help="Default: ID-embeddings.")
@click.option("--to-dead-letters", metavar="TOPIC", help="Default: ID-dead-letters.")
@click.pass_obj
def repartition(
    settings: Settings, /, to_app: str, partitions: int, partitioner: Partitioner | None, **names: str | None
) -> None:
    """Copy the state of LURM_APP__ID to another application whose topics have another number of partitions.

    Stop the producers, let the workers finish, and stop them. The old application is not changed. The new changelog is
    read again and compared row by row; ends with 1 on a difference. Interrupted, it can be run again. The settings
    printed at the end are the new workers': they count the new events topic on top, and publish everybody once in the
    new embeddings topic. Where partitions were added to the old events topic, which stopped the workers, what waits
    there is sent on to the new one, and users whose erasure waits are named: erase them in the new application. Users
    whose producers used several partitioners, so that each partition has a part of their lives, become one again. The
    temporary folder (TMPDIR) needs room for all rows twice.
    """
    from stream.operations import repartition as move  # noqa: PLC0415 - --help needs no Kafka client

    failpoints.arm_from_environment()
    new = move.new_settings(
        settings,
        to_app,
        events=names["to_events"],
        embeddings=names["to_embeddings"] or f"{to_app}-embeddings",
        dead_letters=names["to_dead_letters"] or f"{to_app}-dead-letters",
        partitions=partitions,
        partitioner=partitioner or settings.topics.partitioner,
    )
    with ExitStack() as held:
        with progress_bar("reading the old changelog") as progress:
            state = held.enter_context(move.read_old(settings, progress, partitioner))
        new = move.in_next_epoch(new, state)
        with progress_bar("writing the new changelog") as progress:
            placed = move.write_new(new, state, progress)
        with progress_bar("sending waiting events on") as progress:
            n_waiting = move.send_on(settings, new, state, progress)
        with progress_bar("reading it again") as progress:
            moved = move.verify_and_allow(new, state, placed, progress)
    ledger = " ".join(f"{name}={n}" for name, n in msgspec.structs.asdict(moved.ledger).items())
    say(f"moved and found equal: users={moved.users} rows={moved.rows} {ledger}")
    if state.n_merged:
        say(f"merged into the rest of their users' lives: parts={state.n_merged}")
    if n_waiting:
        say(f"sent on to the new events topic: events={n_waiting}")
    for user in state.unerased:
        say(f"not erased yet, ask again with the new settings: lurm erase {shlex.quote(user)}")
    say(f"LURM_APP__ID={to_app}")
    for name in ("events", "embeddings", "dead_letters", "partitions", "partitioner", "epoch"):
        say(f"LURM_TOPICS__{name.upper()}={getattr(new.topics, name)}")
