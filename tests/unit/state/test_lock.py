import os
import subprocess
import sys
from pathlib import Path

import pytest

from state.errors import StoreUnavailable
from state.lock import locked


def test_a_folder_that_is_held_is_refused_with_the_holder_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "app"
    with locked(folder), pytest.raises(StoreUnavailable, match=f"pid={os.getpid()} path={folder}"), locked(folder):
        pass
    with locked(folder):
        pass


def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from state.lock import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreUnavailable, match=f"pid={holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"cannot lock the state's folder: .* path="), locked(tmp_path / "file"):
        pass
