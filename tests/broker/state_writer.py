"""Writes topics as a worker leaves them, from plain events: rows, partition records, embeddings."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from aiokafka.partitioner import murmur2

from lurm_model.bundle import Bundle
from lurm_model.inference.encoder import Encoder
from state.bags import sum_pairs
from state.history import Rows, resolve
from state.periods import DAY, MS_PER_DAY
from state.record import Ledger, PartitionRecord, encode_record
from state.rollup import roll_up
from state.rows import RECORD_KEY, decode_rows, encode_keys, encode_values
from stream.embedding import EmbeddingWriter
from stream.partition.encoding import EncodedUsers
from stream.settings import Settings
from tests.brokers import producer
from tests.plain import PlainEvent


class StateWriter:
    """The topics of one application after these events; an event's seq is its place in the list."""

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.bundle = bundle

    def partition_of(self, user: bytes) -> int:
        return (murmur2(user) & 0x7FFFFFFF) % self.settings.topics.partitions

    def write_rows(self, events: Sequence[PlainEvent], *, rolled_up: bool = False, rejected: int = 0) -> None:
        """Day rows, rolled up or not, then the partition records, in one transaction per partition."""
        by_partition: dict[int, list[tuple[int, PlainEvent]]] = defaultdict(list)
        for seq, event in enumerate(events):
            by_partition[self.partition_of(event.user)].append((seq, event))
        for partition, own in by_partition.items():
            changes: list[tuple[bytes, bytes | None]] = list(_day_rows(own).items())
            if rolled_up:
                keys = sorted(key for key, _ in changes)
                users, rows = decode_rows(keys, [dict(changes)[key] or b"" for key in keys])
                changes += roll_up(users, rows, self.bundle.scales)
            changes.append((RECORD_KEY, encode_record(self._record(len(own), rejected))))
            with producer(self.settings, f"rows-{self.settings.app.id}-{partition}") as client:
                client.begin_transaction()
                for key, value in changes:
                    client.send(self.settings.changelog_topic, value, key, partition=partition)
                client.commit_transaction()

    def write_embeddings(self, events: Sequence[PlainEvent], *, scale: float = 1.0, dtype: str = "float32") -> None:
        """What the encoder says after these events; ``scale`` spoils it."""
        writer = EmbeddingWriter(self.bundle.model_id, self.bundle.space_id, dtype)
        rows = _day_rows(list(enumerate(events)))
        keys = sorted(rows)
        users, decoded = decode_rows(keys, [rows[key] for key in keys])
        encoded = self._encode(users, decoded, scale)
        with producer(self.settings) as client:
            for partition in range(self.settings.topics.partitions):
                own = [i for i, user in enumerate(users) if self.partition_of(user) == partition]
                part = EncodedUsers(
                    [users[i] for i in own], encoded.vectors[own], encoded.seq[own], encoded.event_time_ms[own], {}
                )
                for record in writer.records(partition, part, 1) if own else []:
                    topic = self.settings.topics.embeddings
                    client.send(topic, record.value, record.key, list(record.headers or ()), partition=partition)
            client.flush()

    def _encode(self, users: list[bytes], rows: Rows, scale: float) -> EncodedUsers:
        n = len(users)
        vectors = Encoder(self.bundle, "cpu").encode(resolve(rows, self.bundle.scales, n), n) * np.float32(scale)
        seq, event_time_ms = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).min)
        np.maximum.at(seq, rows.user, rows.seq)
        np.maximum.at(event_time_ms, rows.user, rows.event_time_ms)
        return EncodedUsers(users, vectors, seq, event_time_ms, {})

    def _record(self, applied: int, rejected: int) -> PartitionRecord:
        names = ",".join(scale.name for scale in self.bundle.scales)
        ledger = Ledger(applied + rejected, applied, 0, rejected)
        return PartitionRecord(self.bundle.codebook.interest_space_id, names, applied + rejected, ledger=ledger)


def _day_rows(events: Sequence[tuple[int, PlainEvent]]) -> dict[bytes, bytes]:
    days: dict[tuple[bytes, int], list[tuple[int, PlainEvent]]] = defaultdict(list)
    for seq, event in events:
        days[event.user, event.ts_ms // MS_PER_DAY].append((seq, event))
    one, rows = np.ones(1, np.int64), {}
    for (user, day), own in days.items():
        (key,) = encode_keys([user], 0 * one, DAY.code * one, day * one)
        interests = np.array([event.interest for _, event in own], np.uint32)
        weights = np.array([event.weight for _, event in own], np.uint32)
        bags = sum_pairs(np.zeros(len(own), np.int64), interests, weights, 1)
        (rows[key],) = encode_values(own[-1][0] * one, max(event.ts_ms for _, event in own) * one, bags)
    return rows
