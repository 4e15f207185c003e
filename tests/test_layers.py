"""The layers of ARCHITECTURE.md hold: stream -> lurm_model -> state, and each package's foreign libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "state": {"kafka", "aiokafka", "faust", "torch", "prometheus_client", "click", "rich"},
    "lurm_model": {"kafka", "aiokafka", "faust", "rocksdict", "prometheus_client", "click"},
}
FILES_MAX = 13
# A list by nature.
UNBOUNDED = {ROOT / "stream" / "commands"}


def imports_of(file: Path, depth: int = 1) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_first(alias.name, depth) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(_first(node.module, depth))
    return found


def _first(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_not_know_the_libraries_of_the_layers_above(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert not imports_of(file) & FORBIDDEN[package], file


def test_only_the_driver_imports_faust() -> None:
    """So that it can be replaced by changing one folder."""
    knowing = {file.parent for file in (ROOT / "stream").rglob("*.py") if "faust" in imports_of(file)}
    assert knowing == {ROOT / "stream" / "driver"}


def folders_of(package: str) -> list[Path]:
    """The package's own folder and those inside it."""
    return [ROOT / package, *(file.parent for file in (ROOT / package).glob("*/__init__.py"))]


@pytest.mark.parametrize("package", ["stream", "lurm_model"])
def test_a_folder_holds_no_more_than_can_be_seen_at_once(package: str) -> None:
    for folder in folders_of(package):
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert folder in UNBOUNDED or len(files) <= FILES_MAX, folder


@pytest.mark.parametrize("package", ["state", "stream", "lurm_model"])
def test_a_folder_says_what_it_is_for(package: str) -> None:
    for folder in {file.parent for file in (ROOT / package).rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_nothing_but_a_command_imports_a_command() -> None:
    """The command line itself knows them by name."""
    knowing = {file for file in (ROOT / "stream").rglob("*.py") if "stream.commands" in imports_of(file, 2)}
    assert {file.parent.name for file in knowing} == {"commands"}


def test_imports_between_packages_go_one_way() -> None:
    command: list[str | Path] = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
