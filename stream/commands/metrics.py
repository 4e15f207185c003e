"""`lurm metrics`: every metric there is; also the generator of the reference page."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import click
from prometheus_client import CollectorRegistry, Metric

from stream.printable import say

EXAMPLES = """
\b
Examples:
  lurm metrics
  lurm metrics > METRICS.md
"""
_UNITS: Final = ("seconds", "bytes", "events", "rows", "users", "embeddings", "partitions", "messages", "items", "fds")
# prometheus_client describes these itself, and does not say what to do.
_PROCESS: Final = {
    "lurm_process_virtual_memory_bytes": "Nothing: RocksDB and torch map much more than they use.",
    "lurm_process_resident_memory_bytes": "Near the container's limit: lower the caches (state.*), raise the limit.",
    "lurm_process_start_time_seconds": "Changes often: LurmWorkerRestarts.",
    "lurm_process_cpu_seconds_total": "At the number of cores for long: add workers.",
    "lurm_process_open_fds": "Near the maximum: raise the hard limit, `ulimit -Hn`.",
    "lurm_process_max_fds": "See lurm_process_open_fds.",
}


class Entry(NamedTuple):
    """One metric of the reference."""

    name: str
    kind: str
    labels: str
    unit: str
    meaning: str
    action: str


@click.command(epilog=EXAMPLES)
def metrics() -> None:
    """Print the table of all metrics as Markdown: what each means and what to do about it."""
    say(*page().splitlines())


def page() -> str:
    """The reference page."""
    from stream.kafka.lag import LagMetrics  # noqa: PLC0415 - `lurm --help` needs no metrics
    from stream.metrics import WorkerMetrics  # noqa: PLC0415

    lines = ["# Metrics", "", "Made by `lurm metrics`. A histogram has the series `_bucket`, `_sum` and `_count`."]
    for title, registry in (
        ("A worker, on `LURM_METRICS__PORT`", WorkerMetrics().registry),
        ("`lurm exporter`", LagMetrics("app").registry),
    ):
        lines += ["", f"## {title}", "", "| name | type | labels | unit | meaning | what to do |", "|---|" + "---|" * 5]
        for entry in entries(registry):
            cells = (f"`{entry.name}`", *entry[1:])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def entries(registry: CollectorRegistry) -> Iterator[Entry]:
    """Every metric of a registry, in the order it was made."""
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        meaning, _, action = family.documentation.partition(". ")
        # A family without series does not tell its labels; the collector does.
        labels = getattr(registry._names_to_collectors.get(family.name), "_labelnames", ())  # noqa: SLF001
        action = action or _PROCESS.get(name, "")
        yield Entry(name, family.type, _labels(family.name, labels), _unit(family), meaning.rstrip(".") + ".", action)


def _labels(family: str, names: Sequence[str]) -> str:
    """The labels, each with its values where they are a closed set."""
    from stream.metrics import LABEL_VALUES  # noqa: PLC0415 - `lurm --help` needs no metrics

    known = LABEL_VALUES.get(family, {})
    return ", ".join(f"{name} ({', '.join(known[name])})" if name in known else name for name in names)


def _unit(family: Metric) -> str:
    """The last word of the name that is a unit; 1 for what has none."""
    return next((word for word in reversed(family.name.split("_")) if word in _UNITS), "1")
