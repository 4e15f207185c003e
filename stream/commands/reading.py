"""The options of every command that reads a file of events: which columns are what, and the unit of its time stamps."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from lurm_model.reading import TARGETS, TIME_UNITS, Reading

COLUMN_HELP = f"Which column is {', '.join(TARGETS[:-1])} or {TARGETS[-1]}, if not the one so named; may be repeated."
ATTRIBUTE_HELP = "A column that is an attribute of the item; may be repeated."
TIME_UNIT_HELP = """Of ts. auto: the file's first row says s, ms (by its size) or ISO 8601, and all others must agree;
text without a zone is UTC. Parquet's own timestamps need none."""


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, and pass them as ``reading``."""

    @click.option("--column", "columns", multiple=True, metavar="TARGET=COLUMN", help=COLUMN_HELP)
    @click.option("--attribute", "attributes", multiple=True, metavar="[NAME=]COLUMN", help=ATTRIBUTE_HELP)
    @click.option(
        "--time-unit", type=click.Choice(TIME_UNITS), default=TIME_UNITS[0], show_default=True, help=TIME_UNIT_HELP
    )
    @wraps(command)
    def with_reading(
        *args: Any, columns: tuple[str, ...], attributes: tuple[str, ...], time_unit: str, **options: Any
    ) -> Any:
        try:
            reading = Reading.parse(columns, attributes, time_unit)
        except ValueError as error:
            raise click.UsageError(f"--column or --attribute: {error}") from error
        return command(*args, reading=reading, **options)

    return with_reading
