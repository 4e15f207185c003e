"""How earlier processes on a state folder ended, counted in a file beside the state: the dead cannot be scraped."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

# stopped: by a signal; refused: an operator must act (exit 1, 2); failed: in doubt (70); watchdog: no progress (70);
# killed: without a word (kill -9, out of memory, power).
ENDINGS: Final = ("stopped", "refused", "failed", "watchdog", "killed")
# The attribute of a log record that says the process ends, and how.
ENDING: Final = "lurm_ending"


class ExitLog(logging.Handler):
    """Counts endings; takes them from the log, since whoever ends a process logs why.

    Invariant: a process that is gone was counted once, if not by itself then as killed by its successor.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(logging.CRITICAL)
        self._file = file
        self._ended: str | None = None
        self.counts = dict.fromkeys(ENDINGS, 0)
        # A file that cannot be read, or is no such file, counts nothing; one of another version what it knows.
        with suppress(OSError, ValueError, AttributeError, TypeError):
            found = json.loads(file.read_text())
            counts = found.get("counts", {})
            self.counts |= {how: int(counts.get(how, 0)) for how in ENDINGS}
            self.counts["killed"] += bool(found.get("running"))
        self._write()

    def emit(self, record: logging.LogRecord) -> None:
        """Count the ending that this record tells of."""
        how = getattr(record, ENDING, None)
        if how is not None:
            self.note(how)

    def note(self, how: str) -> None:
        """Count how this process ends: as was said first, but one that was stopped may yet fail to end."""
        if self._ended == "stopped":
            self.counts["stopped"] -= 1
        elif self._ended is not None:
            return
        self._ended = how
        self.counts[how] += 1
        self._write()

    def _write(self) -> None:
        # A full disk must not keep a worker from ending, or from saying why.
        with suppress(OSError):
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps({"running": self._ended is None, "counts": self.counts}))
            new.replace(self._file)
