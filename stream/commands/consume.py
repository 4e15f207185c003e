"""`lurm consume`: watch embeddings as they are published."""

import time
from collections.abc import Iterator
from typing import Any

import click

from stream.embedding import Embedding, EmbeddingConsumer, Erased
from stream.errors import LurmError
from stream.kafka.connection import wait_for_broker
from stream.printable import say, say_json
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  lurm consume
  lurm consume --from-beginning --max 100 --json
  lurm consume --from-beginning --timeout 5
"""
_POLL_S = 0.5


@click.command(epilog=EXAMPLES)
@click.option("--from-beginning", is_flag=True, help="Start with the oldest embedding kept. [default: from now on]")
@click.option("--max", "n_max", type=click.IntRange(1), help="End after this many embeddings.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), metavar="S",
              help="End when nothing came for so long: with 1 if --max was not reached.")  # fmt: skip
@click.option("--space", "space_id", default="", help="Only this vector space. [default: refuse a second one]")
@click.pass_obj
def consume(
    settings: Settings,
    *,
    from_beginning: bool,
    n_max: int | None,
    as_json: bool,
    timeout_s: float | None,
    space_id: str,
) -> None:
    """Print committed embeddings: seq, user, model, shape and norm of each."""
    wait_for_broker(settings)
    kafka, topic, n_read = settings.kafka, settings.topics.embeddings, 0
    with EmbeddingConsumer(kafka, topic, from_beginning=from_beginning, space_id=space_id or None) as consumer:
        for change in _changes(consumer, timeout_s):
            if as_json:
                say_json(_as_json(change))
            else:
                say(_as_text(change))
            n_read += isinstance(change, Embedding)
            if n_read == n_max:
                return
    if n_max is not None:
        raise LurmError(f"fewer embeddings than asked for: found={n_read} wanted={n_max} waited_s={timeout_s}")


def _changes(consumer: EmbeddingConsumer, timeout_s: float | None) -> Iterator[Embedding | Erased]:
    """What comes, until nothing does for ``timeout_s``."""
    last_s = time.monotonic()
    while True:
        changes = consumer.poll(_POLL_S if timeout_s is None else min(_POLL_S, timeout_s))
        yield from changes
        if changes:
            last_s = time.monotonic()
        elif timeout_s is not None and time.monotonic() - last_s >= timeout_s:
            return


def _as_text(change: Embedding | Erased) -> str:
    if isinstance(change, Erased):
        return f"user={change.user_id} erased"
    shape = "x".join(map(str, change.vectors.shape))
    return f"seq={change.seq} user={change.user_id} model={change.model_id} shape={shape} norm={change.norm:.4f}"


def _as_json(change: Embedding | Erased) -> dict[str, Any]:
    if isinstance(change, Erased):
        return {"user_id": change.user_id, "erased": True}
    names = ("user_id", "seq", "model_id", "space_id", "partition", "event_time_ms", "encoded_at_ms")
    found = {name: getattr(change, name) for name in names}
    return found | {"shape": list(change.vectors.shape), "norm": change.norm}
