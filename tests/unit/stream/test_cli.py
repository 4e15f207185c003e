"""The command line: exit codes, one-line errors, help that is quick, and settings that explain themselves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lurm_model.errors import BundleError, DatasetUnavailable, EventsFileError
from state.errors import SpaceMismatch, StoreUnavailable
from stream.cli import COMMANDS, exit_code_of, run
from stream.errors import BrokerUnavailable, ConfigInvalid
from stream.settings import reference

UNREACHABLE = "127.0.0.1:1"
NEEDS_BROKER = [
    ["topics", "check"],
    ["consume"],
    ["export", "bags"],
    ["export", "embeddings"],
    ["inspect", "ann"],
    ["inspect", "--ledger"],
    ["lag"],
    ["erase", "ann"],
]
HERE = [
    name
    for name, target in COMMANDS.items()
    if (Path(__file__).parents[3] / (target.module.replace(".", "/") + ".py")).exists()
]


@pytest.mark.parametrize("name", HERE)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"lurm {name}" in text or f"lurm --config lurm.toml {name}" in text


def test_the_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from stream.cli import run; run(['--help']);"
        "heavy = {'torch', 'kafka', 'faust', 'pyarrow', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_the_console_script_is_installed_and_knows_its_version() -> None:
    script = Path(sys.executable).with_name("lurm")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lurm, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["consume", "--colour"],
        ["produce"],
        ["inspect"],
        ["inspect", "a", "--ledger"],
        ["verify", "--sample", "0"],
        ["erase"],
        ["erase", ""],
        ["erase", "ann\0"],
        ["erase", "\udcff"],
        ["erase", "é" * 129],
        ["erase", "ann", "--timeout", "0"],
        ["inspect", "\udcff"],
        ["produce", "events.jsonl", "--rate", "nan"],
        ["produce", "events.jsonl", "--rate", "inf"],
    ],
)
def test_misuse_is_one_line_and_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "--help`" in captured.err


@pytest.mark.parametrize("arguments", NEEDS_BROKER)
def test_a_silent_broker_is_one_line_and_one(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_KAFKA__BROKERS", UNREACHABLE)
    monkeypatch.setenv("LURM_KAFKA__START_DEADLINE_S", "0.3")
    assert run(arguments) == 1
    assert capsys.readouterr().err == (
        f"error: no broker answered within 0.3 s: brokers={UNREACHABLE}; "
        "is Kafka running, and does it speak PLAINTEXT there? set LURM_KAFKA__BROKERS, LURM_KAFKA__SECURITY_PROTOCOL\n"
    )


def test_who_waits_for_a_broker_is_told_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LURM_KAFKA__BROKERS", UNREACHABLE)
    monkeypatch.setenv("LURM_KAFKA__START_DEADLINE_S", "1.5")
    monkeypatch.setattr("stream.kafka.connection._SILENT_S", 0.5)
    assert run(["lag"]) == 1
    assert caplog.messages == [f"no broker answers yet: brokers={UNREACHABLE}, trying for 1.5 s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "no model: set LURM_MODEL__BUNDLE"),
        (["export", "items"], "no model: set LURM_MODEL__BUNDLE"),
        (["produce", "none.jsonl"], "cannot read the events"),
        (["produce", "none.csv"], "none.csv"),
        (["export", "bags", "--out", "/nowhere/bags.jsonl"], "cannot write the file"),
    ],
)
def test_files_and_bundle_are_checked_before_the_broker(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_KAFKA__BROKERS", UNREACHABLE)
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("brokers", ["kafka", "kafka:", ",", "kafka:9092;other:9092"])
def test_an_address_that_is_none_is_misuse(
    brokers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_KAFKA__BROKERS", brokers)
    monkeypatch.setenv("LURM_KAFKA__START_DEADLINE_S", "0.3")
    assert run(["topics", "check"]) == 2
    assert "host:port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigInvalid(""), 2),
        (BrokerUnavailable(""), 1),
        (SpaceMismatch(""), 2),
        (StoreUnavailable(""), 1),
        (BundleError(""), 2),
        (EventsFileError(""), 2),
        (DatasetUnavailable(""), 1),
    ],
)
def test_the_exit_code_says_whether_the_caller_must_change_something(error: Exception, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_unknown_variable_is_refused_but_help_and_settings_still_explain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_COLOUR", "red")
    assert run(["topics", "check"]) == 2
    assert "unknown setting LURM_COLOUR" in capsys.readouterr().err
    assert run(["topics", "--help"]) == 0
    capsys.readouterr()
    assert run(["settings"]) == 2
    captured = capsys.readouterr()
    assert "LURM_APP__ID" in captured.out
    assert "unknown setting LURM_COLOUR" in captured.err


def test_settings_show_values_of_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lurm.toml"
    file.write_text('[topics]\nevents = "clicks"\n')
    monkeypatch.setenv("LURM_APP__ID", "mine")
    assert run(["--config", str(file), "settings"]) == 0
    text = capsys.readouterr().out
    assert "value: clicks" in text
    assert "value: mine" in text


def test_the_reference_page_has_a_row_per_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings", "--markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(reference()))
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_an_interrupt_is_130() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from stream.cli import main; print('ready', flush=True); import sys\n"
        "sys.argv[1:] = ['topics', 'check']; main()"
    )
    environment = os.environ | {"LURM_KAFKA__BROKERS": UNREACHABLE}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 130, errors
    assert b"Traceback" not in errors
