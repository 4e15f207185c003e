"""A consumer group that reads the embeddings while everything else breaks, as a user of them would."""

import threading
from collections.abc import Mapping

from stream.embedding import EmbeddingConsumer
from stream.errors import LurmError
from stream.records.embedding_record import Embedding
from stream.settings import Settings

_RETRY_S = 1.0
_LEAVE_S = 5.0


class Readers:
    """Members of one group, each in a thread; ``seen`` is the newest ``seq`` of every user the group was given."""

    def __init__(self, settings: Settings, n_members: int = 2) -> None:
        self.n_read = 0
        self._settings = settings
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(n_members)]
        self.failures: list[str] = []

    @property
    def seen(self) -> Mapping[str, int]:
        """The newest ``seq`` by user, now."""
        with self._lock:
            return dict(self._seen)

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_LEAVE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except LurmError:
                # The broker is away: a consumer that ended is started again, at its group's offsets.
                self._stop.wait(_RETRY_S)
            except Exception as error:  # noqa: BLE001 - whatever else happens to a user is a finding
                self.failures.append(f"a consumer failed: {error!r}")
                self._stop.wait(_RETRY_S)

    def _read(self) -> None:
        settings = self._settings
        with EmbeddingConsumer(
            settings.kafka.brokers,
            settings.topics.embeddings,
            group_id=f"{settings.app.id}-readers",
        ) as consumer:
            while not self._stop.is_set():
                for change in consumer.poll(0.5):
                    with self._lock:
                        self.n_read += 1
                        if isinstance(change, Embedding):
                            self._seen[change.user_id] = max(change.seq, self._seen.get(change.user_id, -1))
