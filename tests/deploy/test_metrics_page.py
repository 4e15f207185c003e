"""The table of metrics is made from the registries, and says of each what to do."""

import re
from pathlib import Path

from stream.commands.metrics import entries, page
from stream.kafka.lag import LagMetrics
from stream.metrics import WorkerMetrics

PAGE = Path(__file__).parents[2] / "deploy" / "METRICS.md"


def test_the_page_in_the_repository_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page() + "\n", "run `make generate`"


def test_every_metric_is_named_after_its_unit_and_says_what_to_do() -> None:
    for registry in (WorkerMetrics().registry, LagMetrics("app").registry):
        found = list(entries(registry))
        for entry in found:
            assert re.fullmatch(r"lurm_[a-z0-9_]+", entry.name)
            assert entry.meaning, entry
            # The help is "What it is. What to do about it."
            assert entry.action.endswith((".", ")")), entry
        assert len({entry.name for entry in found}) == len(found)


def test_labels_are_listed_with_their_values_also_of_metrics_without_series() -> None:
    labels = {entry.name: entry.labels for entry in entries(WorkerMetrics().registry)}
    assert labels["lurm_consumer_lag_events"] == "partition"
    assert labels["lurm_log_messages_total"] == "source (aiokafka, faust, lurm, other), level (warning, error)"
    assert labels["lurm_build_info"] == "version, app, role (worker, exporter)"
    assert labels["lurm_model_info"] == "model_id, space_id, interest_space_id, device"
    assert labels["lurm_ready"] == ""
