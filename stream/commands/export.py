"""`lurm export`: what the topics and the bundle hold, as JSON lines."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from stream.commands.progress import progress_bar
from stream.errors import ConfigInvalid
from stream.printable import json_bytes
from stream.settings import Settings

if TYPE_CHECKING:
    from state.history import Rows
    from state.periods import Scale

EXAMPLES = """
\b
Examples:
  lurm export bags --out bags.jsonl
  lurm export embeddings | head -1
  LURM_MODEL__BUNDLE=bundle lurm export items --out items.jsonl
"""
_BATCH_USERS = 4096
_OUT = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="[default: stdout]")


@click.group(epilog=EXAMPLES)
def export() -> None:
    """Write bags, items or embeddings as JSON lines; no worker need run."""


@export.command(epilog=EXAMPLES)
@_OUT
@click.pass_obj
def bags(settings: Settings, out: Path | None) -> None:
    """Every user's bags from the changelog: the days of the window, and all coarse periods of the life.

    All rows stand in memory at once: some 300 bytes for one of three interests.
    """
    with _output(out) as file, progress_bar("reading the changelog") as progress:
        from stream.operations.replay import newest_state, scales_of  # noqa: PLC0415 - --help needs no Kafka client

        state = newest_state(settings, progress=progress)
        file.writelines(_bag_lines(state.batches(state.users(), _BATCH_USERS), scales_of(settings, state)))


@export.command(epilog=EXAMPLES)
@_OUT
@click.pass_obj
def items(settings: Settings, out: Path | None) -> None:
    """The interest of every item that the bundle knows."""
    if settings.model.bundle is None:
        raise ConfigInvalid("no model: set LURM_MODEL__BUNDLE to a folder made by `lurm train`")
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import

    interest_of = Bundle.load(settings.model.bundle).codebook.interest_of
    with _output(out) as file:
        file.writelines(_lines({"item_id": item, "interest": interest_of[item]} for item in sorted(interest_of)))


@export.command(epilog=EXAMPLES)
@_OUT
@click.pass_obj
def embeddings(settings: Settings, out: Path | None) -> None:
    """Every user's newest embedding. All stand in memory at once, each with 0.6 KB beside its vectors."""
    with _output(out) as file, progress_bar("reading the embeddings") as progress:
        from stream.operations.replay import newest_embeddings  # noqa: PLC0415 - --help needs no Kafka client

        newest = newest_embeddings(settings, progress=progress)
        file.writelines(
            _lines(
                {
                    "user_id": each.user_id,
                    "seq": each.seq,
                    "model_id": each.model_id,
                    "shape": list(each.vectors.shape),
                    "vectors": each.vectors.tolist(),
                }
                for each in newest.values()
            )
        )


def _bag_lines(batches: Iterable[tuple[list[bytes], "Rows"]], scales: Sequence["Scale"]) -> Iterator[bytes]:
    from stream.operations.bag_report import period_bags  # noqa: PLC0415

    for users, rows in batches:
        yield from _lines(bag._asdict() for bag in period_bags(users, rows, scales))


def _lines(entries: Iterable[dict[str, object]]) -> Iterator[bytes]:
    for entry in entries:
        yield json_bytes(entry) + b"\n"


@contextmanager
def _output(out: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears whole or not at all."""
    if out is None:
        yield click.get_binary_stream("stdout")
        return
    special = out.exists() and not out.is_file()
    part = out if special else out.with_name(f"{out.name}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise ConfigInvalid(f"cannot write the file: {error.strerror} file={out}") from error
    try:
        with file:
            yield file
        if not special:
            part.replace(out)
    finally:
        if not special:
            part.unlink(missing_ok=True)
