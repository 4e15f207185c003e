"""`lurm soak`: random faults under load on a broker of its own, and a check that nothing was lost or doubled."""

import json
import math
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.errors import ConfigInvalid, LurmError
from stream.printable import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.soak.run import Status

EXAMPLES = """
\b
Examples:
  lurm soak --minutes 3
  KAFKA_HOME=/opt/kafka lurm soak --minutes 20 --rate 2000
  lurm soak --minutes 3 --seed 7 --dir /tmp/soak
"""
# Says that a soak made the folder: only then may the next one empty it.
MARKER = ".lurm-soak"


@click.command(epilog=EXAMPLES)
@click.option("--minutes", type=click.FloatRange(0.1), default=3.0, show_default=True, help="How long faults go on.")
@click.option("--seed", type=click.IntRange(0), help="Which events and faults, in which order. [default: random]")
@click.option("--rate", type=click.FloatRange(1), default=500.0, show_default=True, help="Events per second.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("build/soak"), show_default=True,
              help="Where everything goes: a new or empty folder, or an earlier soak's, which is emptied.")  # fmt: skip
def soak(minutes: float, seed: int | None, rate: float, folder: Path) -> None:
    """Break workers and broker at random while events flow, then compare what Kafka holds with the events sent.

    Starts a broker of its own, and two workers with a made-up bundle. The broker is a node of the Apache Kafka that
    KAFKA_HOME names, with all faults; or the embedded one, which bears fewer: no outage, no third worker, no zombie.
    Prints a summary as JSON, and ends with 1 on any difference; then databases, broker and logs stay in the folder.
    """
    from stream.soak.run import Plan, Soak, broker_name  # noqa: PLC0415 - torch is slow to import

    plan = Plan(60 * minutes, random.randrange(10**6) if seed is None else seed, rate)  # noqa: S311 - no secret
    own = empty_folder(folder)
    # Whoever asks it to end wants its workers and its broker gone too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say(f"soak: seed={plan.seed} minutes={minutes:g} broker={broker_name()} folder={own}", err=True)
    with _live(plan.seconds) as show:
        summary = Soak(plan, own, show).run()
    text = json.dumps(summary, indent=2)
    (own / "summary.json").write_text(text + "\n", encoding="utf-8")
    say(*text.splitlines())
    if summary["differences"]:
        raise LurmError(
            f"the soak found a difference: {summary['differences'][0]}; n={len(summary['differences'])} "
            f"seed={plan.seed} logs={own}"
        )
    for each in own.glob("state-*"):
        shutil.rmtree(each)
    shutil.rmtree(own / "broker", ignore_errors=True)


def empty_folder(folder: Path) -> Path:
    """A folder without what an earlier soak left. **Raises** `ConfigInvalid` rather than remove what no soak made."""
    known = ("state-*", "broker", "bundle", "worker-*.log", "summary.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARKER).is_file() and any(folder.iterdir()):
            raise ConfigInvalid(f"--dir is neither empty nor an earlier soak's, choose another folder: dir={folder}")
        (folder / MARKER).touch()
        for each in [path for pattern in known for path in folder.glob(pattern)]:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    except OSError as error:
        raise ConfigInvalid(f"--dir cannot be used, choose another folder: dir={folder} reason={error}") from error
    return folder.resolve()


@contextmanager
def _live(seconds: float) -> "Iterator[Callable[[Status], None]]":
    """A line on standard error that moves, where it is a terminal."""
    console = Console(stderr=True)
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", total=seconds)

        def show(status: "Status") -> None:
            fault = f" ({status.fault})" if status.fault else ""
            freshness = "none yet" if math.isnan(status.freshness_p99_s) else f"{status.freshness_p99_s:.1f}s"
            text = (f"{status.phase} faults={status.n_faults}{fault} events={status.n_events:,} users={status.n_users} "
                    f"freshness_p99={freshness}")  # fmt: skip
            bars.update(task, completed=min(status.done_s, seconds), description=text)

        yield show
