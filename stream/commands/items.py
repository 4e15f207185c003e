"""`lurm items`: what happens to items that the bundle does not know."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from lurm_model.files.reading import Reading
from stream.commands.outputs import refuse_other_folder, write_refusals
from stream.commands.progress import progress_bar
from stream.commands.reading import item_options
from stream.errors import ConfigInvalid
from stream.printable import json_bytes, say
from stream.settings import Settings

if TYPE_CHECKING:
    from lurm_model.bundle import Bundle
    from lurm_model.events import Attributes
    from stream.commands.produce import Keyed

EXAMPLES = """
\b
Examples:
  LURM_MODEL__BUNDLE=bundle lurm items assign new.jsonl
  LURM_MODEL__BUNDLE=bundle lurm items assign new.csv --send
  LURM_MODEL__BUNDLE=bundle lurm items assign new.parquet --out bundle-2
  LURM_MODEL__BUNDLE=bundle lurm items assign catalogue.csv --column item_id=sku --attribute category --send
"""
_CHUNK_ITEMS = 16_384


class Assigned(NamedTuple):
    """The new items' interests, and what was left alone."""

    interest_of: dict[str, int]
    n_in_bundle: int
    unknown: list[str]


@click.group(epilog=EXAMPLES)
def items() -> None:
    """Give new items their interest, without training."""


@items.command(epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@item_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write a bundle that knows them too.")
@click.option("--send", "sends", is_flag=True, help="Send them to the items topic: running workers know them at once.")
@click.option("--topic", metavar="TOPIC", help="Send them to this topic.  [default: topics.items]")
@click.pass_obj
def assign(settings: Settings, file: Path, reading: Reading, out: Path | None, sends: bool, topic: str | None) -> None:
    """Find the interest of the new items of FILE (.jsonl, .csv or .parquet, also .jsonl.gz) from their attributes.

    A row has item_id and attributes, or plain columns that --attribute names. Items that the bundle knows keep their
    interest; items without any attribute it knows stay unknown. Both are counted on standard error. Prints JSON lines
    as `lurm export items` does, unless --out or --send is given. The new bundle is another model of the same interests
    and vectors: states and embeddings fit.
    """
    if settings.model.bundle is None:
        raise ConfigInvalid("no model: set LURM_MODEL__BUNDLE to a folder made by `lurm train`")
    if out is not None:
        refuse_other_folder(out)
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import
    from lurm_model.files.item_files import read_items  # noqa: PLC0415 - so is pyarrow

    bundle, attributes_of = Bundle.load(settings.model.bundle), read_items(file, reading)
    with progress_bar("assigning") as progress:
        found = assign_items(bundle, attributes_of, progress)
    if out is not None:
        _save(bundle, found, out)
    if sends or topic:
        _send(settings, topic or settings.topics.items, list(_records(bundle, attributes_of, found)))
    if out is None and not (sends or topic):
        _print(found)
    _report(found)


def assign_items(
    bundle: "Bundle", attributes_of: Mapping[str, "Attributes"], progress: Callable[[int, int], None]
) -> Assigned:
    """The interests of the items that the bundle does not know, in their order."""
    book = bundle.codebook
    new = [item for item in attributes_of if item not in book.interest_of]
    interest_of, unknown = {}, []
    for start in range(0, len(new), _CHUNK_ITEMS):
        chunk = new[start : start + _CHUNK_ITEMS]
        interests = book.assign_many([attributes_of[item] for item in chunk]).tolist()
        for item, interest in zip(chunk, interests, strict=True):
            if interest == book.unknown:
                unknown.append(item)
            else:
                interest_of[item] = interest
        progress(start + len(chunk), len(new))
    return Assigned(interest_of, len(attributes_of) - len(new), unknown)


def _report(found: Assigned) -> None:
    say(f"assigned={len(found.interest_of)} in_bundle={found.n_in_bundle} unknown={len(found.unknown)}", err=True)
    if found.n_in_bundle:
        say("the bundle's own items keep their interest", err=True)
    if found.unknown:
        some = ", ".join(found.unknown[:3]) + (", ..." if len(found.unknown) > 3 else "")
        say(f"no attribute of these items is known to the bundle: {some}", err=True)


def _save(bundle: "Bundle", found: Assigned, out: Path) -> None:
    other = bundle.with_items(found.interest_of)
    with write_refusals():
        other.save(out)
    say(f"bundle={out} model_id={other.model_id} items={len(other.codebook.interest_of)}")


def _send(settings: Settings, topic: str, records: "list[Keyed]") -> None:
    from stream.commands.produce import deliver  # noqa: PLC0415 - --help needs no Kafka client

    sent = deliver(settings, topic, iter(records), n_max=len(records), what="item")
    say(f"sent {sent.n_events} items to {topic}")


def _print(found: Assigned) -> None:
    lines = click.get_binary_stream("stdout")
    for item, interest in found.interest_of.items():
        lines.write(json_bytes({"item_id": item, "interest": interest}) + b"\n")


def _records(bundle: "Bundle", attributes_of: Mapping[str, "Attributes"], found: Assigned) -> "Iterator[Keyed]":
    """Their attributes too, so that a worker with another codebook can find an interest of its own."""
    from stream.commands.produce import Keyed  # noqa: PLC0415
    from stream.records.new_items import NewItem, encode  # noqa: PLC0415

    space_id = bundle.codebook.interest_space_id
    for item, interest in found.interest_of.items():
        attributes = {name: list(texts) for name, texts in attributes_of[item].items()}
        yield Keyed(item.encode(), encode(NewItem({**attributes}, interest, space_id)))
