"""How long work says how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called with a stage's name and how much of it is done; a stage is over when ``done == total``."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note."""


def silent(stage: str, done: int, total: int) -> None:
    """Nobody listens."""
