"""A folder on a disk that can be made too small: a mounted one where that is allowed, else a limit on file sizes."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.workers import WorkerProcess

AMPLE_BYTES = 1 << 30


class SmallDisk:
    """The disk under a worker's state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._is_mounted = self._mount("size=1g")

    def leave(self, n_bytes: int, worker: WorkerProcess) -> None:
        """Let the running worker write about this much more."""
        if self._is_mounted:
            used = sum(file.stat().st_blocks * 512 for file in self.path.rglob("*") if file.is_file())
            assert self._mount(f"remount,size={used + n_bytes}")
        else:
            # What grows is RocksDB's write-ahead log.
            limit = max(file.stat().st_size for file in [*self.path.rglob("*.log"), worker.log]) + n_bytes
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def enlarge(self) -> None:
        """Make room again; a limit on file sizes ended with its worker."""
        if self._is_mounted:
            assert self._mount(f"remount,size={AMPLE_BYTES}")

    def close(self) -> None:
        """Take the disk away."""
        if self._is_mounted:
            subprocess.run(["umount", "--lazy", self.path], check=True)

    def _mount(self, options: str) -> bool:
        program = shutil.which("mount")
        if program is None:
            return False
        command: list[str | Path] = [program, "-t", "tmpfs", "-o", options, "lurm-test", self.path]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """A disk that is gone when the block ends; the workers on it must have ended."""
    disk = SmallDisk(path)
    try:
        yield disk
    finally:
        disk.close()
