import subprocess
import sys

import pytest

# The kernel gives a signal to whichever thread takes it, and the main thread's wait is not interrupted then: what
# happens to a main thread that begins to wait as a signal comes in happens here every time.
SCRIPT = """
import os, signal, sys, threading, time
from stream.stop_signal import StopSignal

number = signal.Signals[sys.argv[1]]
stop = StopSignal()
assert not stop.wait(0)
threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {number})
assert stop.wait(), "without a limit"
assert stop.wait(), "it has come for whoever asks again"
print("ended well")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_another_thread_takes_ends_the_wait(name: str) -> None:
    # The timer's thread is started before the signal is blocked, and takes it.
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "ended well\n"), done.stderr
