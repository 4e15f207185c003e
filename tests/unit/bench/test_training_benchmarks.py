"""The benchmarks that train, on next to nothing: what they print is what RESULTS.md holds."""

import json
from pathlib import Path

import pytest

from tests.bench import ablation, robustness
from tests.bench.population import Size, population

pytestmark = pytest.mark.trains

TINY = Size(n_users=150, n_items=120, n_days=21, events_mean=12)


@pytest.mark.slow
def test_a_population_is_answered_in_a_table_by_smen_and_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    robustness.run("tiny", TINY, seed=0)
    printed = capsys.readouterr().out
    for model in ("smen", *robustness.PEERS):
        assert f"| {model} |" in printed
    assert "users asked: churn" in printed


def test_variants_are_answered_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, _ = population(TINY, seed=0)
    columns = zip(events.user.tolist(), events.item.tolist(), events.ts_ms.tolist(), strict=True)
    lines = [json.dumps({"user_id": f"u{user}", "item_id": f"i{item}", "ts": ts_ms}) for user, item, ts_ms in columns]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    ablation.main(["--events", str(tmp_path / "events.jsonl"), "--only", "base;recurrent only, read from base"])
    printed = capsys.readouterr().out
    assert "| recurrent only, read from base | 64 |" in printed
    assert "users asked: churn" in printed
