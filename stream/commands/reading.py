"""The options of every command that reads a file of events or items: which columns are what, and the unit of time."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from lurm_model.files.reading import ITEM_TARGETS, TARGETS, TIME_UNITS, Reading

ATTRIBUTE_HELP = "A column that is an attribute of the item; may be repeated."
TIME_UNIT_HELP = """Of ts: s, ms, us, ns, iso, or a pattern such as %Y%m%d. auto: the file's first row says which (a
number by its size), and all others must agree; text without a zone is UTC. Parquet's own timestamps need none."""
DELIMITER_HELP = "What separates the columns of a CSV file; tab for tabs."


def _time_unit(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value in TIME_UNITS or "%" in value:
        return value
    raise click.BadParameter(f"{value!r} is none of {', '.join(TIME_UNITS)}, nor a pattern such as %Y%m%d%H%M%S")


def _delimiter(_context: click.Context, _option: click.Parameter, value: str) -> str:
    found = {"tab": "\t", r"\t": "\t"}.get(value, value)
    if len(found) != 1 or found in '"\r\n' or not found.isascii():
        raise click.BadParameter(f"{value!r} is not one character, such as ';' or tab")
    return found


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of events, and pass them as ``reading``."""
    time_unit = click.option(
        "--time-unit",
        metavar="UNIT",
        callback=_time_unit,
        default=TIME_UNITS[0],
        show_default=True,
        help=TIME_UNIT_HELP,
    )
    return _column_options(TARGETS)(time_unit(_with_reading(command, Reading.parse, "time_unit", "delimiter")))


def item_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of items, and pass them as ``reading``."""
    return _column_options(ITEM_TARGETS)(_with_reading(command, Reading.parse_items, "delimiter"))


def _column_options(targets: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    which = f"Which column is {', '.join(targets[:-1])} or {targets[-1]}, if not the one so named; may be repeated."
    column = click.option("--column", "columns", multiple=True, metavar="TARGET=COLUMN", help=which)
    attribute = click.option("--attribute", "attributes", multiple=True, metavar="[NAME=]COLUMN", help=ATTRIBUTE_HELP)
    delimiter = click.option(
        "--delimiter", metavar="CHAR", callback=_delimiter, default=",", show_default=True, help=DELIMITER_HELP
    )
    return lambda command: column(attribute(delimiter(command)))


def _with_reading(command: Callable[..., Any], parse: Callable[..., Reading], *names: str) -> Callable[..., Any]:
    @wraps(command)
    def with_reading(*args: Any, columns: tuple[str, ...], attributes: tuple[str, ...], **options: Any) -> Any:
        told = {name: options.pop(name) for name in names}
        try:
            reading = parse(columns, attributes, **told)
        except ValueError as error:
            raise click.UsageError(f"--column or --attribute: {error}") from error
        return command(*args, reading=reading, **options)

    return with_reading
