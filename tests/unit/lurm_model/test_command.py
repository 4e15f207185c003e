import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner, Result

from lurm_model.bundle import Bundle
from lurm_model.evaluation.tasks import default_cut
from lurm_model.files.datasets import load_events, synthetic, write_events
from stream.commands.model import evaluate, stage_lines, train
from stream.errors import ConfigInvalid, LurmError
from stream.settings import load
from stream.testing.bundle import tiny_bundle


@pytest.fixture(scope="module")
def events_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    write_events(synthetic(n_users=130, n_items=110, seed=1)[0], path)
    return path


def run(command: Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], obj=load(None))


def stages(result: Result) -> list[str]:
    """What was said of the stages, beside the events' span."""
    return [line for line in result.stderr.splitlines(keepends=True) if not line.startswith("events=")]


def test_train_writes_a_bundle_that_loads(events_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run(train, "--events", events_file, "--out", out, "--interests", 20, "--epochs", 0)
    assert result.exit_code == 0, result.output
    assert f"model_id={Bundle.load(out).model_id}" in result.output
    assert re.fullmatch(r"(reading|item vectors|k-means): \d+\.\d s\n" * 3, "".join(stages(result)))
    assert re.search(r"^events=\d+ from 2000-12-31 .* to 2001-03-30 .* UTC$", result.stderr, re.MULTILINE)
    assert Bundle.load(out).codebook.n_clusters == 20


def test_a_bundle_goes_into_the_folder_one_stands_in(
    events_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(train, "--events", events_file, "--out", ".", "--interests", 20, "--epochs", 0).exit_code == 0
    assert Bundle.load(tmp_path).codebook.n_clusters == 20


def train_until_the_cut(events_file: Path, out: Path) -> None:
    cut = datetime.fromtimestamp(default_cut(load_events([events_file])) / 1000, UTC).isoformat()
    result = run(train, "--events", events_file, "--out", out, "--interests", 20, "--epochs", 0, "--before", cut)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.trains
def test_evaluate_prints_and_writes_the_table_and_leaves_the_bundle_alone(events_file: Path, tmp_path: Path) -> None:
    train_until_the_cut(events_file, tmp_path / "bundle")
    held = {path: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    rows = "".join(f"synthetic-{u},{u % 2},{u}\n" for u in range(130))
    (tmp_path / "users.csv").write_text("customer,half,number\n" + rows)
    given = ("--events", events_file, "--users", tmp_path / "users.csv", "--users-id", "customer")
    written = ("--json", tmp_path / "new" / "table.json", "--markdown", tmp_path / "table.md")
    result = run(evaluate, *given, "--bundle", tmp_path / "bundle", *written, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert "| mean_pooling_rf | 96 |" in (tmp_path / "table.md").read_text()
    table = json.loads((tmp_path / "new" / "table.json").read_text())
    tasks, n_users = table["tasks"], table["users"]
    assert list(tasks) == list(n_users) == ["half", "churn", "preference"]
    assert 0 < n_users["half"] <= n_users["churn"] == n_users["preference"]
    assert f"users asked: half {n_users['half']}, churn {n_users['churn']}, " in result.output
    assert 0 < tasks["churn"]["smen"]["auc"] <= 1
    assert "mean_pooling_rf" in result.output
    assert "label number asks nothing" in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == held


@pytest.mark.trains
def test_a_table_that_cannot_be_written_is_printed_first(events_file: Path, tmp_path: Path) -> None:
    train_until_the_cut(events_file, tmp_path / "bundle")
    given = ("--events", events_file, "--bundle", tmp_path / "bundle", "--seeds", 1)
    result = run(evaluate, *given, "--json", "/dev/full")
    assert isinstance(result.exception, ConfigInvalid)
    assert "mean_pooling_rf" in result.output
    assert "reason=No space left on device" in str(result.exception)


def test_a_bundle_that_saw_what_it_is_asked_about_is_refused(events_file: Path, tmp_path: Path) -> None:
    assert run(train, "--events", events_file, "--out", tmp_path / "b", "--epochs", 0).exit_code == 0
    result = run(evaluate, "--events", events_file, "--bundle", tmp_path / "b")
    assert isinstance(result.exception, ConfigInvalid)
    hint = re.search(r"--before (\S+)`", str(result.exception))
    assert hint
    train_again = run(train, "--events", events_file, "--out", tmp_path / "b", "--epochs", 0, "--before", hint[1])
    assert train_again.exit_code == 0
    last_ms = Bundle.load(tmp_path / "b").manifest["training"]["ts_ms_last"]
    assert last_ms < default_cut(load_events([events_file]))


def test_a_bundle_that_says_nothing_of_its_training_is_refused(events_file: Path, tmp_path: Path) -> None:
    tiny_bundle().save(tmp_path / "b")
    result = run(evaluate, "--events", events_file, "--bundle", tmp_path / "b")
    assert "ts_ms_last=None" in str(result.exception)


@pytest.mark.trains
def test_the_future_begins_where_the_cut_says(events_file: Path, tmp_path: Path) -> None:
    events = load_events([events_file])
    train_until_the_cut(events_file, tmp_path / "bundle")
    earlier = datetime.fromtimestamp(default_cut(events) / 1000 - 86_400, UTC).isoformat(timespec="milliseconds")
    result = run(evaluate, "--events", events_file, "--bundle", tmp_path / "bundle", "--cut", earlier)
    assert f"`lurm train --before {earlier}`" in str(result.exception)
    result = run(evaluate, "--events", events_file, "--cut", "2999-01-01")
    assert isinstance(result.exception, ConfigInvalid)
    assert "--cut leaves no event to predict" in str(result.exception)


def test_training_until_a_time_knows_no_attribute_that_was_told_later(events_file: Path, tmp_path: Path) -> None:
    cut_ms = default_cut(load_events([events_file]))
    rows = [json.loads(line) for line in events_file.read_text().splitlines()]
    for row in rows:
        row["attributes"] = {"topic": "late"} if row["ts"] >= cut_ms else {}
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_until_the_cut(tmp_path / "e.jsonl", tmp_path / "b")
    assert not Bundle.load(tmp_path / "b").codebook.tokens


@pytest.mark.trains
def test_evaluate_takes_a_sample_of_the_events_too(events_file: Path) -> None:
    result = run(evaluate, "--events", events_file, "--events-max", 200)
    assert re.search(r"too little to learn from, .*users=\d items", str(result.exception))


def test_labels_of_other_users_are_refused(events_file: Path, tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("user_id,age\nnobody,3\n")
    result = run(evaluate, "--events", events_file, "--users", tmp_path / "u.csv")
    assert isinstance(result.exception, ConfigInvalid)
    assert "first=nobody" in str(result.exception)


@pytest.mark.parametrize("name", ["churn", "preference"])
def test_labels_named_like_a_task_of_ours_are_refused(events_file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "u.csv").write_text(f"user_id,age,{name}\nsynthetic-1,3,1\n")
    result = run(evaluate, "--events", events_file, "--users", tmp_path / "u.csv")
    assert isinstance(result.exception, ConfigInvalid)
    assert f"rename it: column={name}" in str(result.exception)


def test_named_columns_give_the_bundle_of_the_same_events_named_like_ours(events_file: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in events_file.read_text().splitlines()]
    rows = [f"{e['ts'] // 1000},{e['attributes']['topic'][0]},{e['item_id']},{e['user_id']}" for e in lines]
    (tmp_path / "sales.csv").write_text("when,shelf,sku,customer\n" + "\n".join(rows) + "\n")
    named = [argument for pair in ("user_id=customer", "item_id=sku", "ts=when") for argument in ("--column", pair)]
    few = ("--interests", 20, "--epochs", 0)
    run(train, "--events", tmp_path / "sales.csv", *named, "--attribute", "topic=shelf", "--out", tmp_path / "a", *few)
    run(train, "--events", events_file, "--out", tmp_path / "b", *few)
    assert Bundle.load(tmp_path / "a").model_id == Bundle.load(tmp_path / "b").model_id


def test_training_and_worker_count_an_event_by_the_same_weights(
    events_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.loads(line) | {"type": "view"} for line in events_file.read_text().splitlines()]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("LURM_EVENTS__WEIGHTS", '{"view": 3, "veiw": 2}')
    run(train, "--events", tmp_path / "e.jsonl", "--out", tmp_path / "b", "--interests", 20, "--epochs", 0)
    training = Bundle.load(tmp_path / "b").manifest["training"]
    assert training["n_events"] == len(lines)
    assert training["weight"] == 3 * len(lines)
    assert "types that no event has: veiw" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--events", "e.jsonl"),
        ("--events", "e.jsonl", "--out", "o", "--scales", "month"),
        ("--out", "o", "--epochs", "-1"),
        ("--events", "e.jsonl", "--out", "o", "--seed", "4294967296"),
        ("--events", "e.jsonl", "--out", "o", "--column", "colour=blue"),
        ("--events", "e.jsonl", "--out", "o", "--column", "user_id"),
        ("--events", "e.jsonl", "--out", "o", "--column", "user_id=a", "--column", "user_id=b"),
        ("--events", "e.jsonl", "--out", "o", "--column", "user_id=a", "--column", "item_id=a"),
        ("--events", "e.jsonl", "--out", "o", "--attribute", "a", "--attribute", "a=b"),
        ("--events", "e.jsonl", "--out", "o", "--time-unit", "days"),
        ("--events", "e.jsonl", "--out", "o", "--before", "soon"),
    ],
)
def test_misuse_of_train_exits_with_two(arguments: tuple[str, ...]) -> None:
    assert run(train, *arguments).exit_code == 2


def test_evaluate_wants_one_source() -> None:
    assert run(evaluate).exit_code == 2
    assert run(evaluate, "--dataset", "ta-feng", "--events", "e.jsonl").exit_code == 2


@pytest.mark.parametrize(
    "option",
    [
        "--column=user_id=customer",
        "--users-id=user_id",
        "--users=u.csv",
        "--events-max=20000000",
        "--cut=2001-01-01",
        "--time-unit=s",
    ],
)
def test_a_data_set_takes_no_option_of_files(option: str) -> None:
    result = run(evaluate, "--dataset", "ta-feng", option)
    assert result.exit_code == 2
    assert "go with --events" in result.output


def test_a_stage_that_comes_again_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    show = stage_lines()
    for done in (0, 1, 1):
        show("SMEN", done, 1)
    assert re.fullmatch(r"SMEN: \d+\.\d s\nSMEN\n", capsys.readouterr().err)


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
        run(train, "--events", events_file, "--out", few / "o"),
        run(train, "--events", events_file, "--out", tmp_path / "o", "--checkpoint", few),
        run(evaluate, "--events", events_file, "--bundle", tmp_path / "nowhere"),
        *(run(evaluate, "--events", events_file, f"--{name}", few / "x") for name in ("json", "markdown", "plots")),
    ]
    for result in refused:
        assert isinstance(result.exception, ConfigInvalid), result.output
        assert result.exception.exit_code == 2
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("device", ["abacus", "cpu:0", "meta", "cuda:99999999999", "cuda:999", ""])
def test_a_device_that_is_none_is_refused_before_files_are_read(tmp_path: Path, device: str) -> None:
    given = ("--events", tmp_path / "missing.csv", "--device", device)
    for result in (run(train, *given, "--out", tmp_path / "o"), run(evaluate, *given)):
        assert isinstance(result.exception, ConfigInvalid)
        assert re.search(rf"use --device auto.*: device={device}$", str(result.exception))


def test_a_missing_network_is_no_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    result = run(evaluate, "--dataset", "ta-feng", "--cache", tmp_path / "cache")
    assert isinstance(result.exception, LurmError)
    assert result.exception.exit_code == 1


def test_help_has_examples() -> None:
    for command in (train, evaluate):
        assert "Examples:" in run(command, "--help").output
