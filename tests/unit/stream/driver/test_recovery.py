import asyncio
import subprocess
import sys

import faust
import pytest
from faust.tables.recovery import RebalanceAgain

from stream.fatal import EXIT_FATAL

# A process of its own: what is looked for is how it ends.
SCRIPT = """
import asyncio, sys
import faust
from stream.driver.table import Recovery

async def main():
    app = faust.App("test", broker="memory://", TableManager="stream.driver.table:TableManager")
    recovery = app.tables.recovery
    assert isinstance(recovery, Recovery)
    if sys.argv[1] == "stopping":
        recovery._stopped.set()
    await recovery._wait(asyncio.sleep(float(sys.argv[2])), timeout=0.2)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("state", "answer_after_s", "exit_code", "message"),
    [
        ("running", "0", 0, ""),
        ("running", "30", EXIT_FATAL, "the broker did not answer within 0.2 s during a recovery"),
        ("stopping", "30", 1, "ServiceStopped"),
    ],
)
def test_a_call_of_a_recovery_that_takes_too_long_ends_the_worker(
    state: str, answer_after_s: str, exit_code: int, message: str
) -> None:
    command = [sys.executable, "-c", SCRIPT, state, answer_after_s]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, message in done.stderr) == (exit_code, True), done.stderr


def test_a_recovery_that_a_rebalance_has_overtaken_is_not_complete() -> None:
    """Faust swallows the signal in its wait for the changelog, and would start the owner of half a state."""

    async def scenario() -> None:
        app = faust.App("test", broker="memory://", TableManager="stream.driver.table:TableManager")
        app.tables.recovery.signal_recovery_start.set()
        with pytest.raises(RebalanceAgain):
            await app.tables.recovery.on_recovery_completed()

    asyncio.run(scenario())
