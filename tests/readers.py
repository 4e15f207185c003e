"""What a reader of embeddings must get right, whatever it is written in: changes, and what is left at the end."""

import random
import re
from pathlib import Path

import numpy as np

from stream.embedding import headers_of, shared_headers
from stream.settings import Settings
from tests.brokers import producer

ROOT = Path(__file__).parent.parent


class Published:
    """A topic with users who come, change, are erased and come back, beside records that are none of ours.

    ``left`` is what a reader that missed nothing holds: the newest ``seq`` of everybody who was not erased.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self.left: dict[str, int] = {}
        self.erased: set[str] = set()
        self._settings = settings
        self._random = random.Random(seed)
        self._seq = 1
        print(f"published: seed={seed}")

    def more(self, n: int) -> None:
        """Publish so many changes in one transaction, after as many that are aborted."""
        with producer(self._settings, f"{self._settings.app.id}-test") as kafka:
            kafka.begin_transaction()
            for i in range(n):
                self._put(kafka, f"aborted-{i}", 1)
            kafka.abort_transaction()
            kafka.begin_transaction()
            self._put_foreign(kafka)
            for _ in range(n):
                user = f"user-{self._random.randrange(40)}"
                if self._random.random() < 0.25:
                    self._put(kafka, user, None)
                    self.left.pop(user, None)
                    self.erased.add(user)
                    continue
                self._seq += 1
                self._put(kafka, user, self._seq)
                self.left[user] = self._seq
            kafka.commit_transaction()

    def _put(self, kafka: object, user: str, seq: int | None) -> None:
        shared = shared_headers("m", "s", (1, 2), "float32")
        (headers,) = headers_of(shared, 0, 1, np.array([seq or 0]), np.array([0]))
        value = None if seq is None else np.array([seq, 0.5], "<f4").tobytes()
        kafka.send(  # type: ignore[attr-defined]
            self._settings.topics.embeddings, value, user.encode(), headers if value else [], partition=len(user) % 2
        )

    def _put_foreign(self, kafka: object) -> None:
        for key, value in [(b"{}", b"{}"), (b"", None), (b"", b"")]:
            kafka.send(self._settings.topics.embeddings, value, key, partition=0)  # type: ignore[attr-defined]


def readme_reader(settings: Settings, group: str) -> str:
    """The README's subscriber, as it stands there but for the names of broker, topic and group."""
    (code,) = re.findall(
        r"Subscribing from Python:\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    for ours, theirs in [("127.0.0.1:9092", settings.kafka.brokers), ("embeddings", settings.topics.embeddings),
                         ("ranking", group)]:  # fmt: skip
        assert f'"{ours}"' in code
        code = code.replace(f'"{ours}"', repr(theirs))
    return code
