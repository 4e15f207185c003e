"""Which machine, which versions and which commit a figure belongs to."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("aiokafka", "faust-streaming", "msgspec", "numpy", "rocksdict", "torch")


def describe() -> str:
    """A few lines to stand above every result."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = " ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"machine: {os.cpu_count()} x {cpu}, {gib:.0f} GiB, {platform.system()} {platform.release()}\n"
        f"versions: Python {sys.version.split()[0]} {libraries}\ncommit: {_commit()}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
