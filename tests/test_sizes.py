"""Files, functions and classes stay small enough to be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_P90 = 30
PARAMETERS_MAX = 6
PUBLIC_METHODS_MAX = 10
MAP_BYTES_MAX = 15_000
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return [file for package in ("state", "lurm_model", "stream") for file in (ROOT / package).rglob("*.py")]


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield file, node


def functions() -> Iterator[tuple[Path, Function]]:
    return ((file, node) for file, node in nodes() if isinstance(node, Function))


def lines_of(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_no_file_is_too_long() -> None:
    long = {str(file): n for file in sources() if (n := len(file.read_text().splitlines())) > FILE_LINES_MAX}
    assert not long


def test_no_function_is_too_long_and_nine_in_ten_are_short() -> None:
    lengths = sorted(lines_of(function) for _, function in functions())
    long = {f"{file}:{f.name}": n for file, f in functions() if (n := lines_of(f)) > FUNCTION_LINES_MAX}
    assert not long
    assert lengths[int(len(lengths) * 0.9)] <= FUNCTION_LINES_P90


def test_no_function_takes_too_many_parameters() -> None:
    for file, function in functions():
        names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        wanted = [name for name in names if name not in {"self", "cls"}]
        if function.name != "settings_customise_sources":  # the library's signature
            assert len(wanted) <= PARAMETERS_MAX or is_command(function), f"{file}:{function.name}"


def is_command(function: Function) -> bool:
    """A command's parameters are its options, one each; click calls it by name."""
    return any(isinstance(node, ast.Call) and "command" in ast.unparse(node.func) for node in function.decorator_list)


def test_no_class_has_too_many_public_methods() -> None:
    for file, node in nodes():
        if isinstance(node, ast.ClassDef):
            public = [f for f in node.body if isinstance(f, Function) and not f.name.startswith("_")]
            assert len(public) <= PUBLIC_METHODS_MAX, f"{file}:{node.name} has {len(public)}"


def test_the_map_can_be_read_in_one_sitting() -> None:
    assert (ROOT / "ARCHITECTURE.md").stat().st_size <= MAP_BYTES_MAX
