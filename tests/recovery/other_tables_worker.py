"""`lurm worker` of another version, whose table has another name: what a rolling deploy would bring."""

import sys

import stream.app
from stream.cli import run

stream.app.TABLE = "rows"  # type: ignore[misc]
sys.exit(run(["worker"]))
