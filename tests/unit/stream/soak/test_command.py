"""`lurm soak --dir`: a folder is emptied only if a soak made it."""

from pathlib import Path

import pytest

from stream.commands.soak import empty_folder
from stream.errors import ConfigInvalid

LEFT = ("bundle/manifest.json", "state-a/partition-0/CURRENT", "broker/log", "worker-a.log", "summary.json")


def fill(folder: Path) -> None:
    for name in LEFT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.mark.parametrize("exists", [False, True])
def test_what_an_earlier_soak_left_is_removed(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "soak"
    if exists:
        folder.mkdir()
    assert empty_folder(folder) == folder.resolve()
    fill(folder)
    (folder / "notes").write_text("x")
    empty_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".lurm-soak", "notes"]


@pytest.mark.parametrize("name", LEFT)
def test_a_folder_that_no_soak_made_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigInvalid, match=f"neither empty nor an earlier soak's, .*: dir={tmp_path}"):
        empty_folder(tmp_path)
    assert (tmp_path / name).read_text() == "precious"
    assert not (tmp_path / ".lurm-soak").exists()


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigInvalid, match=f"choose another folder: dir={folder} reason="):
            empty_folder(folder)
