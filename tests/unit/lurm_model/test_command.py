import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lurm_model.bundle import Bundle
from lurm_model.datasets import synthetic, write_events
from stream.commands.model import evaluate, train
from stream.errors import ConfigInvalid, LurmError


@pytest.fixture(scope="module")
def events_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    write_events(synthetic(n_users=130, n_items=110, seed=1)[0], path)
    return path


def run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_train_writes_a_bundle_that_loads(events_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run(train, "--events", events_file, "--out", out, "--interests", 20, "--epochs", 0)
    assert result.exit_code == 0, result.output
    assert f"model_id={Bundle.load(out).model_id}" in result.output
    assert Bundle.load(out).codebook.n_clusters == 20


def test_evaluate_prints_and_writes_the_table(events_file: Path, bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "bundle")
    (tmp_path / "users.csv").write_text("user_id,half\n" + "".join(f"synthetic-{u},{u % 2}\n" for u in range(130)))
    given = ("--events", events_file, "--users", tmp_path / "users.csv", "--bundle", tmp_path / "bundle")
    written = ("--json", tmp_path / "table.json", "--markdown", tmp_path / "table.md")
    result = run(evaluate, *given, *written, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert "| mean_pooling_rf | 96 |" in (tmp_path / "table.md").read_text()
    tasks = json.loads((tmp_path / "table.json").read_text())["tasks"]
    assert list(tasks) == ["half", "churn", "preference"]
    assert 0 < tasks["churn"]["smen"]["auc"] <= 1
    assert "mean_pooling_rf" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--events", "e.jsonl"),
        ("--events", "e.jsonl", "--out", "o", "--scales", "month"),
        ("--out", "o", "--epochs", "-1"),
    ],
)
def test_misuse_of_train_exits_with_two(arguments: tuple[str, ...]) -> None:
    assert run(train, *arguments).exit_code == 2


def test_evaluate_wants_one_source() -> None:
    assert run(evaluate).exit_code == 2
    assert run(evaluate, "--dataset", "ta-feng", "--events", "e.jsonl").exit_code == 2


def test_bad_input_is_a_refusal_with_exit_code_two_in_one_line(tmp_path: Path, events_file: Path) -> None:
    bad, few = tmp_path / "bad.jsonl", tmp_path / "few.jsonl"
    bad.write_text("{}\n")
    few.write_text('{"user_id": "u", "item_id": "i", "ts": 1}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    refused = [
        run(train, "--events", bad, "--out", tmp_path / "o"),
        run(train, "--events", few, "--out", tmp_path / "o"),
        run(train, "--events", tmp_path / "missing.csv", "--out", tmp_path / "o"),
        run(train, "--events", events_file, "--out", tmp_path / "full"),
        run(train, "--events", events_file, "--out", tmp_path / "o", "--device", "abacus"),
        run(evaluate, "--events", events_file, "--bundle", tmp_path / "nowhere"),
    ]
    for result in refused:
        assert isinstance(result.exception, ConfigInvalid), result.output
        assert result.exception.exit_code == 2
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_a_missing_network_is_no_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    result = run(evaluate, "--dataset", "ta-feng", "--cache", tmp_path / "cache")
    assert isinstance(result.exception, LurmError)
    assert result.exception.exit_code == 1


def test_help_has_examples() -> None:
    for command in (train, evaluate):
        assert "Examples:" in run(command, "--help").output
