"""`lurm train` and `lurm evaluate`: parse, build, run. Everything heavy is imported when it is needed."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lurm_model.files.reading import AS_NAMED, EVENTS_MAX, Reading
from state.periods import parse_scales
from stream.commands.downloads import downloads
from stream.commands.outputs import refuse_other_folder, refuse_unwritable, refuse_unwritable_file, write_refusals
from stream.commands.reading import reading_options
from stream.commands.spans import Span
from stream.errors import ConfigInvalid, LurmError
from stream.printable import printable, say
from stream.settings import Settings

if TYPE_CHECKING:
    from lurm_model.bundle import Bundle
    from lurm_model.evaluation.evaluate import Questions
    from lurm_model.evaluation.report import Report
    from lurm_model.events import Events, UserLabels
    from lurm_model.progress import Progress

EVENTS_HELP = "Events: .csv, .jsonl (also .gz) or .parquet with user_id, item_id, ts; may be repeated."
EVENTS_MAX_HELP = "More events than this are sampled: whole lives of half the users, a quarter, ..."
EPOCHS_HELP = "Passes over the users, exactly. [default: 3, more if users are few, fewer once they no longer help]"
BEFORE_HELP = "Learn only from what is before this date or time (ISO 8601, UTC), e.g. to evaluate on what is after."
FUTURE_HELP = "Events as for `lurm train`."
CACHE_HELP = "Where downloads stay. [default: ~/.cache/lurm-stream]"
CUT_HELP = "When the future to predict begins (ISO 8601, UTC). [default: with the last quarter of the events' time]"
SEED = click.IntRange(0, 2**32 - 1)  # what all our sources of chance take
PATH = click.Path(path_type=Path)
BUNDLE_HELP = "Instead of training one; trained on nothing but what lies before the cut."
EVENTS_MAX_OPTION = click.option(
    "--events-max", type=click.IntRange(1), default=EVENTS_MAX, show_default=True, help=EVENTS_MAX_HELP
)
DEVICE_OPTION = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
# What says which events, and how to read them; a data set says so itself.
OF_EVENTS = ("users", "users_id", "cut_ms", "events_max")
TRAIN_EXAMPLES = """
\b
Examples:
  lurm train --events purchases.jsonl --out bundle
  lurm train --events 2024.parquet --events 2025.parquet --out bundle --scales day,week,month --interests 5000
  lurm train --events sales.csv --column user_id=customer --column item_id=sku --column ts=when --attribute category \\
    --out bundle
"""
EVALUATE_EXAMPLES = """
\b
Examples:
  lurm evaluate --dataset ta-feng
  lurm evaluate --dataset movielens --seeds 5
  lurm evaluate --events purchases.jsonl --users ages.csv --users-id customer --json table.json
  lurm evaluate --events purchases.jsonl --bundle trained-on-what-lies-before --cut 2026-03-01
  lurm evaluate --events purchases.jsonl --markdown table.md --plots plots
"""


def _scales(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        parse_scales(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _instant(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Unix milliseconds of a date or time; without a zone it is UTC."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no ISO 8601 date or time") from error
    zoned = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (zoned - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@click.command(epilog=TRAIN_EXAMPLES)
@click.option("--events", "files", type=PATH, multiple=True, required=True, metavar="FILE", help=EVENTS_HELP)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="The bundle's folder.")
@reading_options
@click.option("--before", metavar="WHEN", callback=_instant, help=BEFORE_HELP)
@click.option("--scales", default="day,month", show_default=True, callback=_scales, help="Scales the model reads.")
@EVENTS_MAX_OPTION
@click.option(
    "--interests",
    "n_interests",
    type=click.IntRange(2),
    help="Size of the codebook. [default: half the items, <= 10000]",
)
@click.option("--epochs", type=click.IntRange(0), help=EPOCHS_HELP)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Equal seeds give equal bundles.")
@DEVICE_OPTION
@click.option("--checkpoint", type=PATH, metavar="DIR", help="Save every epoch here; run again to go on after a stop.")
@click.pass_obj
def train(
    settings: Settings,
    /,
    files: tuple[Path, ...],
    out: Path,
    reading: Reading,
    before: int | None,
    events_max: int,
    **options: Any,
) -> None:
    """Train a model from files of events and write it as a bundle.

    Needs no tuning; 100 users and 100 items are enough to begin with. The bundle fixes the scales of the state. Events
    weigh what the setting events.weights says of their type.
    """
    refuse_other_folder(out)
    if options["checkpoint"]:
        refuse_unwritable("--checkpoint", options["checkpoint"])
    with _refusals(), _progress() as progress:
        from lurm_model.files.datasets import load_events  # noqa: PLC0415  # torch and pyarrow are slow to import
        from lurm_model.inference.encoder import choose_device  # noqa: PLC0415
        from lurm_model.training.train import TrainOptions  # noqa: PLC0415
        from lurm_model.training.train import train as train_bundle  # noqa: PLC0415

        choose_device(options["device"])
        progress("reading", 0, 1)
        events = load_events(files, settings.events.weights, events_max, reading)
        progress("reading", 1, 1)
        events = events if before is None else events.before(before)
        _say_span(events)
        bundle = train_bundle(events, TrainOptions(**options), progress)
        bundle.save(out)
    dims = bundle.manifest["dims"]
    say(f"bundle={out} model_id={bundle.model_id} items={dims['n_items']} interests={dims['n_clusters']}")


@click.command(epilog=EVALUATE_EXAMPLES)
@click.option("--dataset", type=click.Choice(["ta-feng", "movielens"]), help="Public data, downloaded once.")
@click.option("--events", "files", type=PATH, multiple=True, metavar="FILE", help=FUTURE_HELP)
@reading_options
@click.option("--cut", "cut_ms", metavar="WHEN", callback=_instant, help=CUT_HELP)
@click.option("--users", type=PATH, metavar="FILE", help="Labels: user_id and a column each.")
@click.option(
    "--users-id", default="user_id", show_default=True, metavar="COLUMN", help="Which column is their user_id."
)
@EVENTS_MAX_OPTION
@click.option("--bundle", "folder", type=PATH, metavar="DIR", help=BUNDLE_HELP)
@click.option("--json", "json_path", type=PATH, metavar="FILE", help="Also write the table as JSON.")
@click.option("--markdown", type=PATH, metavar="FILE", help="Also write the table in Markdown.")
@click.option("--plots", type=PATH, metavar="DIR", help="Also AUC by size and by history, as pictures and tables.")
@DEVICE_OPTION
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many random splits.")
@click.option("--cache", type=PATH, default=downloads, metavar="DIR", help=CACHE_HELP)
@click.pass_obj
def evaluate(
    settings: Settings,
    /,
    dataset: str | None,
    files: tuple[Path, ...],
    reading: Reading,
    plots: Path | None,
    **given: Any,
) -> None:
    """Compare frozen embeddings with baselines: the AUC of a logistic regression on each, same users, same splits.

    Without --bundle a model is trained on what lies before the cut in time.
    """
    if (dataset is None) == (not files):
        raise click.UsageError("give either --dataset or --events")
    if dataset and (reading != AS_NAMED or any(map(_is_given, OF_EVENTS))):
        raise click.UsageError(
            "--users, --users-id, --cut, --column, --attribute, --time-unit, --delimiter, --events-max go with --events"
        )
    _refuse_outputs(given["json_path"], given["markdown"], plots)
    with _refusals(), _progress() as progress:
        from lurm_model.evaluation import evaluate as evaluation  # noqa: PLC0415  # torch is slow to import
        from lurm_model.evaluation import plots as drawing  # noqa: PLC0415
        from lurm_model.files.datasets import load_events  # noqa: PLC0415  # pyarrow is slow to import
        from lurm_model.inference.encoder import choose_device  # noqa: PLC0415

        device = given["device"]
        choose_device(device)
        if plots:
            drawing.require()
        if dataset:
            questions = _of_public_data(dataset, given["cache"], given["seeds"])
        else:
            events = load_events(files, settings.events.weights, given["events_max"], reading)
            _say_span(events)
            labels = _labels(events, given["users"], given["users_id"], reading.delimiter)
            questions = _questions(events, labels, given["cut_ms"], given["seeds"])
        bundle = _bundle(given["folder"], questions, progress, device)
        report = evaluation.evaluate(bundle, questions, progress, device)
        _print_table(report)
        _write(report, given["json_path"], given["markdown"])
        if plots:
            sized = list(evaluation.by_size(bundle, questions, progress, device=device))
            drawing.plot(sized, "numbers per user", plots / "size.png")
            history = list(evaluation.by_history(bundle, questions, progress, device))
            drawing.plot(history, "days of history", plots / "history.png")


def _say_span(events: "Events") -> None:
    """Print when these events happened, and warn where that looks wrong."""
    span = Span()
    span.add(events.ts_ms)
    span.say()


def _is_given(name: str) -> bool:
    """Whether an option was given, be it with its default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _refuse_outputs(json_path: Path | None, markdown: Path | None, plots: Path | None) -> None:
    for option, path in (("--json", json_path), ("--markdown", markdown)):
        if path:
            refuse_unwritable_file(option, path)
    if plots:
        refuse_unwritable("--plots", plots)


def _labels(events: "Events", path: Path | None, user_id: str, delimiter: str) -> "UserLabels | None":
    """What is known of the users of these events; says what no question can be made of."""
    if path is None:
        return None
    from lurm_model.files.datasets import load_labels  # noqa: PLC0415  # pyarrow is slow to import

    labels = load_labels(path, user_id, delimiter)
    if not set(labels.users) & set(events.users):
        raise ConfigInvalid(
            f"no user of --users has an event, is --users-id right?: file={path} column={user_id} "
            f"first={labels.users[0]} first_of_events={events.users[0]}"
        )
    return labels


def _of_public_data(dataset: str, cache: Path, seeds: int) -> "Questions":
    from lurm_model.evaluation import tasks  # noqa: PLC0415  # pyarrow is slow to import
    from lurm_model.evaluation.evaluate import Questions  # noqa: PLC0415
    from lurm_model.files import public_data  # noqa: PLC0415

    if dataset == "ta-feng":
        events, known = public_data.ta_feng(cache)
        return Questions(events, tasks.ta_feng_tasks(events, known), tasks.TA_FENG_CUT_MS, seeds)
    return _questions(*public_data.movielens(cache), None, seeds)


def _questions(events: "Events", labels: "UserLabels | None", cut_ms: int | None, seeds: int) -> "Questions":
    from lurm_model.evaluation import tasks  # noqa: PLC0415  # pyarrow is slow to import
    from lurm_model.evaluation.evaluate import Questions  # noqa: PLC0415

    cut_ms = tasks.default_cut(events) if cut_ms is None else cut_ms
    if not (events.ts_ms >= cut_ms).any():
        raise ConfigInvalid(f"--cut leaves no event to predict: {events.span}")
    asked = tasks.event_tasks(events, labels, cut_ms)
    for name in labels.columns if labels else ():
        if name not in asked:
            need = f"two values of {tasks.LABEL_USERS_MIN} users of these events each"
            say(f"label {name} asks nothing, it needs {need}", err=True)
    return Questions(events, asked, cut_ms, seeds)


def _bundle(folder: Path | None, questions: "Questions", progress: "Progress", device: str) -> "Bundle":
    """The bundle to evaluate: one that has seen nothing of what it is asked."""
    from lurm_model.bundle import Bundle  # noqa: PLC0415  # torch is slow to import
    from lurm_model.training.train import TrainOptions  # noqa: PLC0415
    from lurm_model.training.train import train as train_bundle  # noqa: PLC0415

    if folder is None:
        return train_bundle(questions.before, TrainOptions(device=device), progress)
    bundle = Bundle.load(folder)
    cut = datetime.fromtimestamp(questions.cut_ms / 1000, UTC).isoformat(timespec="milliseconds")
    last_ms = bundle.learned_until_ms
    if last_ms is None or last_ms >= questions.cut_ms:
        raise ConfigInvalid(
            f"the bundle may have learned from the future it is asked about, leave out --bundle or give one of "
            f"`lurm train --before {cut}`: bundle={folder} ts_ms_last={last_ms} cut_ms={questions.cut_ms}"
        )
    return bundle


def _write(report: "Report", json_path: Path | None, markdown: Path | None) -> None:
    texts = {json_path: json.dumps(report.to_json(), indent=2) + "\n", markdown: report.to_markdown()}
    for path, text in texts.items():
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def _print_table(report: "Report") -> None:
    from rich.console import Console  # noqa: PLC0415  # only where something is printed
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    head, *body = report.rows()
    view = Table(*(escape(printable(title)) for title in head))
    for row in body:
        view.add_row(*(escape(printable(cell)) for cell in row))
    Console(width=max(80, 18 * len(head))).print(view)
    say(*report.asked().splitlines())
    for task in report.unasked():
        say(f"{task} could not be asked, every split needs users of both answers", err=True)


@contextlib.contextmanager
def _refusals() -> "Iterator[None]":
    """Every refusal of the model or of a disk as one of the shell's: bad input is misuse, a missing network is not."""
    from lurm_model.errors import DatasetUnavailable, ModelError  # noqa: PLC0415

    try:
        with write_refusals():
            yield
    except DatasetUnavailable as error:
        raise LurmError(str(error)) from error
    except ModelError as error:
        raise ConfigInvalid(str(error)) from error


@contextlib.contextmanager
def _progress() -> "Iterator[Progress]":
    """Bars on a terminal, one per stage; elsewhere a line on stderr for each stage that is over."""
    from rich.console import Console  # noqa: PLC0415  # only where something is shown
    from rich.progress import Progress as Bars  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield stage_lines()
        return
    stages = dict[str, Any]()
    with Bars(console=console) as bars:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield show


def stage_lines() -> "Progress":
    """A line on stderr for each stage that is over, with the seconds it took if it was seen to begin."""
    began_s = dict[str, float]()

    def show(stage: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < total:
            began_s.setdefault(stage, now_s)
        else:
            # A stage may come again, and begins anew then.
            began = began_s.pop(stage, None)
            say(stage if began is None else f"{stage}: {now_s - began:.1f} s", err=True)

    return show
