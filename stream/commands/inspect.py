"""`lurm inspect`: what is known of one user, or whether the ledger of every partition balances."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from stream.commands.progress import progress_bar
from stream.commands.user_id import refuse_bad_id
from stream.errors import LurmError
from stream.operations.bag_report import period_bags
from stream.operations.interest_names import top_items
from stream.operations.ledger_report import SourcePart, partition_report, source_parts
from stream.operations.replay import newest_embeddings, newest_records, newest_state, only, scales_of
from stream.printable import say, say_json
from stream.records.embedding_record import Embedding
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  lurm inspect 01069
  LURM_MODEL__BUNDLE=bundle lurm inspect 01069
  lurm inspect 01069 --json
  lurm inspect --ledger
  lurm inspect --ledger --source --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("user", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--ledger", is_flag=True, help="Instead: received = applied + skipped + rejected, per partition.")
@click.option("--source", is_flag=True, help="With --ledger: also read the events topic, and compare.")
@click.pass_obj
def inspect(settings: Settings, user: str | None, *, as_json: bool, ledger: bool, source: bool) -> None:
    """Show a user's bags by period, and the last embedding; ends with 1 when nothing is known of the user.

    With --ledger, show what became of every event; ends with 1 when one is unaccounted for.
    """
    if (user is None) == (not ledger):
        raise click.UsageError("give either a user or --ledger")
    if source and not ledger:
        raise click.UsageError("--source goes with --ledger")
    if user is None:
        _show_ledger(settings, as_json=as_json, source=source)
    else:
        refuse_bad_id(user)
        _show_user(settings, user, as_json=as_json)


def _show_user(settings: Settings, user: str, *, as_json: bool) -> None:
    items = top_items(settings)
    with progress_bar("reading the topics") as progress:
        embedding = newest_embeddings(settings, only(user), progress).get(user)
        state = newest_state(settings, only(user), progress)
    partitions, rows = state.of_user(user.encode())
    known = bool(partitions)
    if not known and embedding is None:
        raise LurmError(f"nothing is known of the user: user={user} changelog={settings.changelog_topic}")
    seq = int(rows.seq.max()) if known else None
    found: dict[str, Any] = {
        "user_id": user,
        "partition": partitions[0] if known else None,
        "partitions": partitions,
        "seq": seq,
        "event_time_ms": int(rows.event_time_ms.max()) if known else None,
        "periods": [bag._asdict() for bag in period_bags([user.encode()], rows, scales_of(settings, state))]
        if known
        else [],
        "embedding": None if embedding is None else _embedding(embedding, seq),
    }
    if items:
        shown = {interest for bag in found["periods"] for interest in bag["interests"]}
        found["items"] = {interest: items[interest] for interest in sorted(shown) if interest in items}
    if as_json:
        say_json(found)
    else:
        say(*_user_lines(found))


def _embedding(embedding: Embedding, seq: int | None) -> dict[str, Any]:
    return {
        "seq": embedding.seq,
        "model_id": embedding.model_id,
        "space_id": embedding.space_id,
        "norm": embedding.norm,
        "encoded_at_ms": embedding.encoded_at_ms,
        "pending": seq is not None and embedding.seq < seq,
    }


def _user_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"user={found['user_id']} partition={found['partition']} seq={found['seq']} "
             f"newest_event={_utc(found['event_time_ms'])}"]  # fmt: skip
    if len(found["partitions"]) > 1:
        lines.append(f"  {in_several(found['partitions'])}")
    for bag in found["periods"]:
        interests = " ".join(f"{interest}:{count}" for interest, count in bag["interests"].items())
        lines.append(f"  {bag['scale']:<7} {bag['period']:<10} seq={bag['seq']}  {interests}")
    for interest, names in found.get("items", {}).items():
        lines.append(f"  interest {interest}: {', '.join(names)}")
    last = found["embedding"]
    if last is None:
        return [*lines, "embedding: none yet (pending)"]
    state = "pending: newer events wait to be encoded" if last["pending"] else "up to date"
    return [*lines, f"embedding: seq={last['seq']} model={last['model_id']} norm={last['norm']:.4f} ({state})"]


def in_several(partitions: Sequence[int]) -> str:
    """What it means that a user has rows in these partitions."""
    return (
        f"found in several partitions: {', '.join(map(str, partitions))}; each holds a part of this life, summed here, "
        "and publishes an embedding of its own part: the producers use different partitioners, and `lurm repartition` "
        "merges them"
    )


def _utc(ms: int | None) -> str:
    if ms is None:
        return "none"
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=ms)).isoformat() + "Z"  # noqa: DTZ001 - UTC by the Z


def _show_ledger(settings: Settings, *, as_json: bool, source: bool) -> None:
    with progress_bar("reading the changelog") as progress:
        state = newest_records(settings, progress)
    parts: dict[int, SourcePart] = {}
    if source:
        with progress_bar("counting the events") as progress:
            parts = source_parts(settings, state.records, progress)
    partitions = [partition_report(number, record, parts.get(number)) for number, record in state.records.items()]
    total = msgspec.structs.asdict(state.ledger) | {"balanced": all(each["balanced"] for each in partitions)}
    if as_json:
        say_json({"partitions": partitions, "total": total})
    else:
        for each in [*partitions, {"partition": "all"} | total]:
            shown = {name: ",".join(value) or "none" if name == "faults" else value for name, value in each.items()}
            say(" ".join(f"{name}={value}" for name, value in shown.items()))
    wrong = {each["partition"]: each["faults"] for each in partitions if each["faults"]}
    if wrong:
        named = " ".join(f"partition={number} faults={','.join(faults)}" for number, faults in wrong.items())
        raise LurmError(f"the ledger does not balance: {named}; events were lost or counted twice")
