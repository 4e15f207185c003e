"""`lurm topics`: make the topics, or say what is wrong with them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from stream.errors import ConfigInvalid
from stream.printable import say
from stream.settings import Settings

if TYPE_CHECKING:
    from stream.kafka.topics import Problem

EXAMPLES = """
\b
Examples:
  LURM_TOPICS__PARTITIONS=8 lurm topics create
  lurm topics check
"""


@click.group(epilog=EXAMPLES)
def topics() -> None:
    """Create or check the topics named in the settings."""


@topics.command(epilog=EXAMPLES)
@click.pass_obj
def create(settings: Settings) -> None:
    """Make every topic that does not exist yet; ends with 2 when an existing one is wrong."""
    from stream.kafka.topics import create_missing, plan  # noqa: PLC0415 - --help needs no Kafka client

    partitions = {each.name: each.partitions(settings) for each in plan(settings)}
    for name in create_missing(settings, _n_interests(settings)):
        say(f"created {name}: {partitions[name]} partitions")
    _check(settings)


@topics.command(epilog=EXAMPLES)
@click.pass_obj
def check(settings: Settings) -> None:
    """Compare the topics with what the worker needs; ends with 2 when one is missing or wrong."""
    from stream.kafka.output import unpublished  # noqa: PLC0415

    _check(settings, unpublished)


def _check(settings: Settings, more: Callable[[Settings], "list[Problem]"] = lambda _: []) -> None:
    from stream.kafka.topics import check as find_problems  # noqa: PLC0415
    from stream.kafka.topics import plan  # noqa: PLC0415

    problems = find_problems(settings, _n_interests(settings)) or more(settings)
    for problem in problems:
        say(str(problem))
    if problems:
        raise ConfigInvalid(f"{len(problems)} problems with the topics, listed above; brokers={settings.kafka.brokers}")
    say(f"topics are as planned: {', '.join(each.name for each in plan(settings))}")


def _n_interests(settings: Settings) -> int:
    """How many interests a row may have, if a bundle is named: the changelog must take a row of them all."""
    if settings.model.bundle is None:
        return 0
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import

    return Bundle.load(settings.model.bundle).codebook.n_interests
