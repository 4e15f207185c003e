"""What is counted of publishing beside the embeddings themselves: walks over everybody, and vectors that are none."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

WALK_CAUSES: Final = ("model", "topic")


class PublishingMetrics:
    """The metrics of `stream.metrics` that are about this, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "lurm_embeddings_refused",
            "Embeddings with NaN or infinity in them, never published. Any: LurmEmbeddingsRefused.",
            registry=registry,
        )
        self.walks = Counter(
            "lurm_walks",
            "Walks over everybody that began, one per partition, by what is another or has lost its end. "
            "topic: LurmEmbeddingsReplaced.",
            ["cause"],
            registry=registry,
        )
        self.walking = Gauge(
            "lurm_walking_partitions",
            "Partitions held whose users are all published again. Not 0 and no user walked: LurmWalkStuck.",
            registry=registry,
        )
        self.walked = Counter(
            "lurm_walked_users",
            "Users published again by walks over everybody. Slow while users are dirty, who go first: add workers.",
            registry=registry,
        )
        for cause in WALK_CAUSES:
            self.walks.labels(cause)
