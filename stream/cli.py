"""The command `lurm`: settings once, one module per command, every failure one line on stderr and an exit code.

0 ok, 1 failed, 2 misuse (arguments, settings, files, bundle, topics), 130 interrupted. Only the module of the chosen
command is imported, so that `lurm --help` is quick and needs no torch.
"""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import click

from lurm_model.errors import DatasetUnavailable, ModelError
from state.errors import SpaceMismatch, StateError
from stream.errors import ConfigInvalid, LurmError
from stream.printable import Formatter, say

INTERRUPTED = 130
EXAMPLES = """
\b
Examples:
  lurm train --events purchases.jsonl --out bundle
  lurm topics create
  LURM_STATE__DIR=state LURM_MODEL__BUNDLE=bundle lurm worker
  lurm produce purchases.jsonl
  lurm consume --from-beginning --max 10

`lurm settings` lists every setting and its environment variable.
"""


class Target(NamedTuple):
    """Where a command is defined, and its line in the list of commands."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "bundle": Target("stream.commands.bundle", "bundle", "Show what is in a model bundle, or verify it."),
    "console": Target("stream.commands.console", "console", "Serve a web page: partitions live, and users."),
    "consume": Target("stream.commands.consume", "consume", "Print embeddings as they are published."),
    "demo": Target("stream.commands.demo", "demo", "Run everything on real purchases, with a broker of its own."),
    "erase": Target("stream.commands.erase", "erase", "Forget a user everywhere, and print a receipt."),
    "evaluate": Target("stream.commands.model", "evaluate", "Compare embeddings with plain bags on known tasks."),
    "export": Target("stream.commands.export", "export", "Write bags, items or embeddings as JSON lines."),
    "exporter": Target("stream.commands.lag", "exporter", "Serve the group's lag for Prometheus."),
    "inspect": Target("stream.commands.inspect", "inspect", "Show what is known of a user, or the ledger."),
    "items": Target("stream.commands.items", "items", "Give new items their interest, without training."),
    "lag": Target("stream.commands.lag", "lag", "Show how far the group is behind, workers or not."),
    "metrics": Target("stream.commands.metrics", "metrics", "Print the table of all metrics."),
    "produce": Target("stream.commands.produce", "produce", "Send a file's events to the events topic."),
    "restore": Target("stream.commands.snapshot", "restore", "Put snapshots in the place of a stopped worker's state."),
    "repartition": Target("stream.commands.repartition", "repartition", "Move the state to other partitions."),
    "settings": Target("stream.commands.settings", "settings", "List every setting, its variable and its value."),
    "snapshot": Target("stream.commands.snapshot", "snapshot", "Copy a worker's state to a folder, while it runs."),
    "soak": Target("stream.commands.soak", "soak", "Break everything at random under load, then check every count."),
    "topics": Target("stream.commands.topics", "topics", "Create or check the topics."),
    "train": Target("stream.commands.model", "train", "Train a model bundle from a file of events."),
    "verify": Target("stream.commands.verify", "verify", "Encode users again and compare with what was published."),
    "worker": Target("stream.commands.worker", "worker", "Consume events, publish embeddings."),
}
_HELP = "stream.help"
# These must work, and explain, when the settings are wrong.
_WITHOUT_SETTINGS = {"bundle", "metrics", "settings"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are chosen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether help is asked for, of any command: help must not depend on the settings."""
        ctx.meta[_HELP] = "--help" in args
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        command = getattr(importlib.import_module(target.module), target.name)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in sorted(COMMANDS)])


@click.command(cls=LazyGroup, epilog=EXAMPLES, no_args_is_help=True)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings as TOML.")
@click.version_option(metadata.version("lurm-stream"), prog_name="lurm")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Behaviour events in, whole-life user embeddings out.

    Settings come from the environment (LURM_SECTION__KEY), then from the file given with --config.
    """
    context.meta["stream.config"] = config
    if context.invoked_subcommand in _WITHOUT_SETTINGS or context.meta[_HELP]:
        return
    from stream.settings import load  # noqa: PLC0415 - `lurm --help` needs no settings

    context.obj = load(config)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        result = cli.main(list(arguments), prog_name="lurm", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        return _fail(_usage_line(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LurmError, StateError, ModelError) as error:
        return _fail(str(error), exit_code_of(error))
    return result if isinstance(result, int) else 0


def exit_code_of(error: Exception) -> int:
    """2 when whoever called must change something, else 1."""
    if isinstance(error, LurmError):
        return error.exit_code
    misuse = isinstance(error, (SpaceMismatch, ModelError)) and not isinstance(error, DatasetUnavailable)
    return ConfigInvalid.exit_code if misuse else LurmError.exit_code


def main() -> None:
    """The console script."""
    # What matters of kafka-python's warnings reaches the operator as an error.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # Of a command that does not configure logging: it prints warnings as they are.
    assert logging.lastResort is not None  # noqa: S101 - only whoever sets it to None could have done so
    logging.lastResort.setFormatter(Formatter("%(message)s"))
    sys.exit(run(sys.argv[1:]))


def _fail(message: str, exit_code: int) -> int:
    say("error: " + " ".join(message.split()), err=True)
    return exit_code


def _usage_line(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see `{context.command_path} --help`" if context else message


if __name__ == "__main__":
    main()
