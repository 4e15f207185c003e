"""`lurm demo`: everything, with a broker of its own, in a few minutes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.commands.downloads import downloads
from stream.commands.progress import progress_bar
from stream.errors import ConfigInvalid, LurmError
from stream.printable import say

if TYPE_CHECKING:
    from stream.trial.demo import DemoData

EXAMPLES = """
\b
Examples:
  lurm demo
  KAFKA_HOME=/opt/kafka lurm demo
  lurm demo --synthetic --dir /tmp/demo --keep
  lurm demo --write purchases.jsonl
"""
_CONSUMER_DEADLINE_S = 60.0


_MEANING = """
Every event was counted exactly once, and the second process read everybody's newest embedding. Freshness is that of
months of events sent at once. The probes are quick ones, on what came before the cut; `lurm evaluate` asks more.
"""


@click.command(epilog=EXAMPLES)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("build/demo"), show_default=True,
              help="Where everything goes; what an earlier demo left there is removed.")  # fmt: skip
@click.option("--synthetic", "made_up", is_flag=True, help="A made-up click-stream instead of real purchases.")
@click.option("--keep", is_flag=True, help="Leave the broker running until interrupted, to look at what is in it.")
@click.option("--write", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Only write the events to FILE (.jsonl or .parquet), to try the other commands with.")  # fmt: skip
def demo(folder: Path, *, made_up: bool, keep: bool, file: Path | None) -> None:
    """Train on two months of real purchases, stream four through a worker, consume the embeddings.

    Starts a broker of its own: the embedded one, or a node of the Apache Kafka that KAFKA_HOME names. Writes
    summary.json, and ends with 1 when a single event is unaccounted for.
    """
    if file is not None:
        _write(file, made_up=made_up)
        return
    from stream.trial.embedded_broker import start_broker  # noqa: PLC0415

    start = time.monotonic()
    data, trained_s = _train(_clean(folder), made_up=made_up)
    with start_broker(folder / "broker") as broker:
        summary = _stream(data, folder.resolve(), broker.brokers)
        summary |= {"training_s": round(trained_s, 1), "seconds": round(time.monotonic() - start, 1)}
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        say(*_table(summary).splitlines())
        say(*_MEANING.splitlines())
        say(f"written to {folder / 'summary.json'}")
        if keep:
            _keep(folder.resolve(), broker.brokers)


def _write(file: Path, *, made_up: bool) -> None:
    from lurm_model.files.datasets import write_events  # noqa: PLC0415 - pyarrow is slow to import
    from stream.trial.demo import demo_data  # noqa: PLC0415

    if file.suffix not in {".jsonl", ".parquet"}:
        raise ConfigInvalid(f"--write: a .jsonl or .parquet file is wanted: file={file}")
    events = demo_data(downloads(), _say, made_up=made_up).events
    try:
        write_events(events, file)
    except OSError as error:
        raise ConfigInvalid(f"cannot write the events: {error.strerror} file={file}") from error
    say(f"wrote {len(events)} events of {len(events.users)} users to {file}")


def _clean(folder: Path) -> Path:
    for name in ("state", "bundle", "broker"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("summary.json", "embeddings.jsonl"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _train(folder: Path, *, made_up: bool) -> tuple["DemoData", float]:
    # torch and sklearn take seconds to import, which `lurm --help` need not wait for.
    from stream.trial.demo import demo_data, train_bundle  # noqa: PLC0415

    _say("1/4 data: " + ("a synthetic click-stream" if made_up else "Ta-Feng, 817,741 purchases of four months"))
    data = demo_data(downloads(), _say, made_up=made_up)
    _say(f"2/4 training on what comes first of {len(data.events):,} events")
    with _training() as progress:
        return data, train_bundle(data, folder / "bundle", progress)


def _stream(data: "DemoData", folder: Path, brokers: str) -> dict[str, Any]:
    from stream.kafka.topics import create_missing  # noqa: PLC0415
    from stream.operations.replay import newest_embeddings  # noqa: PLC0415
    from stream.trial.demo import demo_settings, process, stream_all, summarise  # noqa: PLC0415

    kind = "Apache Kafka (KAFKA_HOME)" if os.environ.get("KAFKA_HOME") else "embedded (noida-db)"
    _say(f"3/4 streaming through a worker: broker={kind} {brokers}")
    settings, environment = demo_settings(brokers, folder)
    create_missing(settings)
    output = folder / "embeddings.jsonl"
    consuming = ["consume", "--from-beginning", "--json"]
    with process(consuming, environment, output), progress_bar("events") as bar:
        run = stream_all(data, settings, environment, folder, bar)
        newest = {user: embedding.seq for user, embedding in newest_embeddings(settings).items()}
        consumed = _consumed(output, newest)
    _say("4/4 counting what Kafka holds")
    return summarise(data, settings, run, consumed, kind)


def _keep(folder: Path, brokers: str) -> None:
    say(
        "the broker stays until you press Ctrl-C; look at it with",
        f"  export LURM_APP__ID=lurm-demo LURM_KAFKA__BROKERS={brokers} LURM_MODEL__BUNDLE={folder / 'bundle'}",
        "  lurm inspect --ledger; lurm verify --sample 1000; lurm consume --from-beginning --max 5",
    )
    signal.pause()


def _say(text: str) -> None:
    say(text, err=True)


@contextmanager
def _training() -> Iterator[Any]:
    with progress_bar("training") as bar:

        def listen(stage: str, done: int, total: int) -> None:
            del stage
            bar(done, total)

        yield listen


def _consumed(output: Path, newest: Mapping[str, int]) -> Mapping[str, int]:
    """What the second process has read, once it has everybody's newest embedding. ``newest``: seq by user."""
    deadline = time.monotonic() + _CONSUMER_DEADLINE_S
    while time.monotonic() < deadline:
        complete, _, _ = output.read_text(encoding="utf-8").rpartition("\n")
        read = [json.loads(line) for line in complete.splitlines()]
        last = {embedding["user_id"]: embedding["seq"] for embedding in read}
        if last == newest:
            return {"users_encoded": len(last), "embeddings_consumed": len(read)}
        time.sleep(1.0)
    missing = sum(last.get(user) != seq for user, seq in newest.items())
    raise LurmError(f"the consumer did not get everybody's newest embedding: users={len(newest)} missing={missing}")


def _table(summary: Mapping[str, Any]) -> str:
    lines = [f"{name:22} {value:>16,}" for name, value in summary.items() if isinstance(value, int | float)]
    lines.append(f"\n{'probe (AUC)':22} {'embedding':>12} {'raw bag':>12}")
    lines += [f"{task:22} {auc['embedding']:>12.4f} {auc['bag']:>12.4f}" for task, auc in summary["probes"].items()]
    return "\n".join(lines)
