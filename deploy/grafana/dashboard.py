"""The Grafana dashboard, as code: ``python deploy/grafana/dashboard.py > deploy/grafana/lurm.json``.

Import the JSON in Grafana and choose the Prometheus, or provision it: ``DS_PROMETHEUS`` is both an input of the import
and a variable. Variables are chained: application, its workers, their partitions.
"""

import json
import sys
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${DS_PROMETHEUS}")
W = 'instance=~"$instance"'
P = f'{W},partition=~"$partition"'
APP = 'app=~"$app"'
RATE = "[$__rate_interval]"


class Query(NamedTuple):
    """One expression and the name of its lines."""

    expr: str
    legend: str = ""


class Graph(NamedTuple):
    """One panel of lines; its description says what to look for."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]


class Number(NamedTuple):
    """One panel with a number, or a text taken from a label."""

    title: str
    unit: str
    description: str
    query: Query


def quantiles(histogram: str, by: str = "") -> tuple[Query, ...]:
    """Median and 99th percentile over the chosen workers."""
    wanted = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(f"histogram_quantile({q}, sum by ({wanted}) (rate({histogram}_bucket{{{W}}}{RATE})))", f"{name}p{p}")
        for q, p in ((0.5, 50), (0.99, 99))
    )


def mean(histogram: str) -> str:
    """The mean of what a histogram observed."""
    return f"sum(rate({histogram}_sum{{{W}}}{RATE})) / sum(rate({histogram}_count{{{W}}}{RATE}))"


OVERVIEW = (
    Number("Ready workers", "none", "Workers whose every partition is recovered.", Query(f"sum(lurm_ready{{{W}}})")),
    Number("Late embeddings", "percentunit", "Share acknowledged more than 5 s after their event, last hour. The budget"
           " is 1 %.",
           Query(f'1 - sum(rate(lurm_freshness_seconds_bucket{{{W},le="5.0"}}[1h]))'
                 f" / sum(rate(lurm_freshness_seconds_count{{{W}}}[1h]))")),
    Number("Lag", "short", "Source records the group has not applied, from `lurm exporter`: right without workers.",
           Query(f"sum(lurm_group_lag_events{{{APP}}})")),
    Number("Partitions with a broken ledger", "none", "Anything but 0: events were lost or counted twice.",
           Query(f"sum(lurm_ledger_broken{{{W}}})")),
    Number("Users waiting", "short", "Users that changed and have no new embedding yet.",
           Query(f"sum(lurm_dirty_users{{{W}}})")),
    Number("Partitions owned", "none", "Their sum is the source's, or some are without a worker.",
           Query(f'sum(lurm_partitions{{{W},role="active"}})')),
    Graph("Freshness", "s", "From an event's arrival in Kafka to the acknowledged embedding.",
          quantiles("lurm_freshness_seconds")),
    Graph("Throughput", "cps", "Events by outcome, and embeddings. received = applied + skipped + rejected.", (
        Query(f"sum by (outcome) (rate(lurm_events_total{{{W}}}{RATE}))", "{{outcome}}"),
        Query(f"sum(rate(lurm_embeddings_published_total{{{W}}}{RATE}))", "embeddings"),
    )),
    Graph("Lag in events", "short", "Per partition. One that stands out: its worker, or a hot user.", (
        Query(f'sum by (partition) (lurm_group_lag_events{{{APP},partition=~"$partition"}})', "{{partition}}"),
    )),
    Graph("Hidden events", "short", "Behind a producer's open transaction: nobody can read them. Peaks are well.", (
        Query(f'sum by (partition) (lurm_group_hidden_events{{{APP},partition=~"$partition"}})', "{{partition}}"),
    )),
    Graph("Lag in seconds", "s", "Age of the first record not applied yet.", (
        Query(f'max by (partition) (lurm_group_lag_seconds{{{APP},partition=~"$partition"}})', "{{partition}}"),
        Query(f"max(lurm_consumer_lag_seconds{{{P}}})", "as the workers see it"),
    )),
    Graph("Dirty backlog", "short", "Grows while encoding is slower than the change.", (
        Query(f"sum by (instance) (lurm_dirty_users{{{W}}})", "{{instance}}"),
    )),
    Graph("Oldest mark", "s", "How long the user waits who waits longest.", (
        Query(f"max by (instance) (lurm_dirty_oldest_seconds{{{W}}})", "{{instance}}"),
    )),
    Graph("Rejected events", "cps", "By reason. They are in the dead letters, unchanged.", (
        Query(f"sum by (reason) (rate(lurm_rejections_total{{{W}}}{RATE}))", "{{reason}}"),
    )),
    Graph("Since the last commit", "s", "Of each partition. Without events it grows and means nothing.", (
        Query(f"time() - max by (partition) (lurm_last_commit_timestamp_seconds{{{P}}})", "{{partition}}"),
    )),
)  # fmt: skip
WORKERS = (
    Graph("Time of a batch", "s", "Of each stage: decode, merge, store.", quantiles("lurm_stage_seconds", "stage")),
    Graph("Transactions", "s", "Rows and offsets, and embeddings. Slow: the broker.", (
        *quantiles("lurm_changelog_seconds"),
        *(query._replace(legend=f"embeddings {query.legend}") for query in quantiles("lurm_publish_seconds")),
    )),
    Graph("Events per batch", "short", "Grows with the load.", (Query(mean("lurm_batch_events"), "mean"),)),
    Graph("Endings", "short", "How processes on these state folders ended: watchdog, failed and killed need a look.", (
        Query(f"sum by (how) (lurm_exits_total{{{W}}})", "{{how}}"),
    )),
    Graph("Rebalances and logged errors", "short", "In ten minutes.", (
        Query(f"sum(increase(lurm_rebalances_total{{{W}}}[10m]))", "rebalances"),
        Query(f'sum by (source) (increase(lurm_log_messages_total{{{W},level="error"}}[10m]))', "errors {{source}}"),
    )),
    Graph("Processor", "percentunit", "Cores in use.", (
        Query(f"sum by (instance) (rate(lurm_process_cpu_seconds_total{{{W}}}{RATE}))", "{{instance}}"),
    )),
    Graph("Memory", "bytes", "Of the process.", (
        Query(f"sum by (instance) (lurm_process_resident_memory_bytes{{{W}}})", "{{instance}}"),
    )),
    Graph("Uptime", "s", "", (Query(f"time() - lurm_process_start_time_seconds{{{W}}}", "{{instance}}"),)),
)  # fmt: skip
STATE = (
    Graph("Rows", "short", "Estimated, own partitions and standbys.", (
        Query(f"sum by (instance) (lurm_rows{{{W}}})", "{{instance}}"),
    )),
    Graph("Rolled up", "cps", "Day rows moved into coarser periods.", (
        Query(f"sum(rate(lurm_rolled_up_rows_total{{{W}}}{RATE}))", "rows"),
    )),
    Graph("RocksDB memory", "bytes", "Bounded by state.cache_bytes and state.memtable_bytes.", (
        Query(f"sum by (kind) (lurm_rocksdb_memory_bytes{{{W}}})", "{{kind}}"),
    )),
    Graph("RocksDB on disk", "bytes", "And what waits for compaction.", (
        Query(f"sum(lurm_rocksdb_disk_bytes{{{W}}})", "databases"),
        Query(f"sum(lurm_rocksdb_compaction_bytes{{{W}}})", "to compact"),
    )),
    Graph("Disk free", "percentunit", "", (
        Query(f'sum by (instance) (lurm_disk_bytes{{{W},kind="free"}})'
              f' / sum by (instance) (lurm_disk_bytes{{{W},kind="total"}})', "{{instance}}"),
    )),
    Graph("Recovery: rows to read", "short", "", (
        Query(f"sum by (instance) (lurm_recovery_remaining_rows{{{W}}})", "{{instance}}"),
    )),
    Graph("Recovery: time left", "s", "At the mean speed so far.", (
        Query(f"max by (instance) (lurm_recovery_eta_seconds{{{W}}})", "{{instance}}"),
    )),
    Graph("Replay and standby", "short", "Changelog rows applied per second, and how far standbys are behind.", (
        Query(f"sum by (instance) (rate(lurm_replayed_rows_total{{{W}}}{RATE}))", "applied/s {{instance}}"),
        Query(f"sum by (instance) (lurm_standby_lag_rows{{{W}}})", "behind {{instance}}"),
    )),
)  # fmt: skip
ENCODER = (
    Number("Device", "none", "Where vectors are made.",
           Query(f"count by (device) (lurm_model_info{{{W}}})", "{{device}}")),
    Graph("Users per batch", "short", "At encode.batch_users there is a backlog.", (
        Query(mean("lurm_encode_users"), "mean"),
    )),
    Graph("Encoding of a batch", "s", "", quantiles("lurm_encode_seconds")),
    Graph("Hidden cache", "cps", "Users encoded from it, and without: a miss costs a whole life.", (
        Query(f"sum by (outcome) (rate(lurm_encode_cache_total{{{W}}}{RATE}))", "{{outcome}}"),
    )),
    Graph("Users encoded", "cps", "", (Query(f"sum(rate(lurm_encode_users_sum{{{W}}}{RATE}))", "users"),)),
)  # fmt: skip
MODEL = (
    Number("Model", "none", "More than one: a rollout is not finished.",
           Query(f"count by (model_id) (lurm_model_info{{{W}}})", "{{model_id}}")),
    Number("Vector space", "none", "Embeddings compare only within one.",
           Query(f"count by (space_id) (lurm_model_info{{{W}}})", "{{space_id}}")),
    Number("Version", "none", "", Query(f"count by (version) (lurm_build_info{{{APP}}})", "{{version}}")),
    Graph("Drift: events of unknown items", "percentunit", "Grows as the catalogue moves away from the bundle.", (
        Query(f"sum(rate(lurm_unknown_items_total{{{W}}}{RATE}))"
              f' / sum(rate(lurm_events_total{{{W},outcome="applied"}}{RATE}))', "share"),
    )),
    Graph("Items learned from the items topic", "short", "And records that say nothing, per hour.", (
        Query(f"max by (instance) (lurm_learned_items{{{W}}})", "{{instance}}"),
        Query(f'sum by (outcome) (increase(lurm_item_records_total{{{W},outcome!~"learned|forgotten|in_bundle"}}[1h]))',
              "{{outcome}}"),
    )),
    Graph("Drift: mean length of embeddings", "none", "Says how much users did; a step is a change of data or model.", (
        Query(f"avg(lurm_embedding_norm{{{W}}})", "mean"),
    )),
)  # fmt: skip
ROWS = {"Overview": OVERVIEW, "Workers": WORKERS, "State": STATE, "Encoder": ENCODER, "Model": MODEL}


def graph(panel: Graph) -> timeseries.Panel:
    """Lines over time, three to a row."""
    built = timeseries.Panel().title(panel.title).description(panel.description).unit(panel.unit).min(0)
    built = built.datasource(SOURCE).height(7).span(8)
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).range()
        built = built.with_target(target)
    return built


def number(panel: Number) -> stat.Panel:
    """One value; of a count by a label, the label is what is shown."""
    target = prometheus.Dataquery().expr(panel.query.expr).legend_format(panel.query.legend).ref_id("A").instant()
    built = stat.Panel().title(panel.title).description(panel.description).unit(panel.unit)
    if panel.query.legend:
        built = built.text_mode(stat.common.BigValueTextMode.NAME)
    return built.datasource(SOURCE).height(4).span(4).with_target(target)


def variable(name: str, label: str, query: str) -> build.QueryVariable:
    """A variable that asks Prometheus, again whenever the time range changes."""
    built = build.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    built = built.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NUMERICAL_ASC)
    return built if name == "app" else built.multi(multi=True).include_all(include_all=True)


def made() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    board = build.Dashboard("lurm-stream").uid("lurm-stream").tags(["lurm", "kafka"]).refresh("30s")
    board = board.time("now-1h", "now").timezone("browser").tooltip(1).readonly()
    board = board.with_variable(build.DatasourceVariable("DS_PROMETHEUS").label("Prometheus").type("prometheus"))
    for arguments in (
        ("app", "Application", "label_values(lurm_build_info, app)"),
        ("instance", "Worker", 'label_values(lurm_build_info{app=~"$app",role="worker"}, instance)'),
        ("partition", "Partition", f"label_values(lurm_last_commit_timestamp_seconds{{{W}}}, partition)"),
    ):
        board = board.with_variable(variable(*arguments))
    for title, panels in ROWS.items():
        board = board.with_row(build.Row(title))
        for panel in panels:
            board = board.with_panel(graph(panel) if isinstance(panel, Graph) else number(panel))
    inputs = {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}
    needs = [{"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.1.0"},
             {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
             {"type": "panel", "id": "stat", "name": "Stat", "version": ""},
             {"type": "panel", "id": "timeseries", "name": "Time series", "version": ""}]  # fmt: skip
    return {"__inputs": [inputs], "__requires": needs} | json.loads(json.dumps(board.build(), cls=JSONEncoder))


if __name__ == "__main__":
    json.dump(made(), sys.stdout, indent=1)
    print()
