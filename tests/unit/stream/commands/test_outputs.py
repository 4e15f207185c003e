"""Where commands write: what cannot be written is refused before the work, and in one line when it fails after all."""

import os
from pathlib import Path

import pytest

from stream.cli import run
from stream.commands.outputs import refuse_other_folder, refuse_unwritable, refuse_unwritable_file, write_refusals
from stream.errors import ConfigInvalid


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


@pytest.mark.parametrize("place", [".", "new", "new/below", "../bundle", "../empty"])
def test_a_bundle_may_go_to_a_new_folder_an_empty_one_or_over_a_bundle(folder: Path, place: str) -> None:
    refuse_other_folder(Path(place))
    assert not list((folder / "empty").iterdir()), "a trial leaves nothing behind"


NO_PLACE = ["..", "../file", "../file/below", "/", "/proc", "/proc/none", "/dev/null", "../loop"]


@pytest.mark.parametrize("place", NO_PLACE)
@pytest.mark.usefixtures("folder")
def test_no_bundle_may_go_elsewhere(place: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^--out .*choose another|^--out is a mount point.*out=") as refused:
        refuse_other_folder(Path(place))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("folder")
def test_new_items_go_to_no_such_place_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LURM_MODEL__BUNDLE", "../bundle")
    assert run(["items", "assign", "new.jsonl", "--out", "/proc/none"]) == 2
    assert capsys.readouterr().err.startswith("error: --out cannot be written")


def test_a_mount_point_is_no_place_for_a_bundle() -> None:
    mount = Path("/dev/shm")
    if not mount.is_mount() or any(mount.iterdir()):
        pytest.skip("no empty mount point here")
    with pytest.raises(ConfigInvalid, match=f"--out is a mount point, .* out={mount}"):
        refuse_other_folder(mount)


@pytest.mark.parametrize("place", ["../file/below", "/proc/none/below", "../loop"])
@pytest.mark.usefixtures("folder")
def test_a_folder_or_a_file_that_cannot_be_made_is_refused(place: str) -> None:
    for refuse in (refuse_unwritable, refuse_unwritable_file):
        with pytest.raises(ConfigInvalid, match=r"--plots .*choose another"):
            refuse("--plots", Path(place))


@pytest.mark.usefixtures("folder")
def test_a_file_may_be_new_written_again_or_a_device_but_no_folder() -> None:
    for place in ("x.json", "new/x.json", "../file", os.devnull):
        refuse_unwritable_file("--json", Path(place))
    with pytest.raises(ConfigInvalid, match="--json is a folder"):
        refuse_unwritable_file("--json", Path("../empty"))


def test_what_fails_after_all_is_one_line_and_a_closed_pipe_is_none(tmp_path: Path) -> None:
    reason = f"cannot write, .*: file={tmp_path} reason=Is a directory"
    with pytest.raises(ConfigInvalid, match=reason), write_refusals():
        tmp_path.write_text("x")
    with pytest.raises(BrokenPipeError), write_refusals():
        raise BrokenPipeError
