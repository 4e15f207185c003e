"""The equality that must hold after everything: what Kafka holds is what the plain reference says of the events sent.

Bags from the changelog are the reference's, to the last count; the ledger balances and is what was sent; nothing in
the changelog ever went back; every user's last embedding is the full encode of the user's bags; and the consumer group
was given each of those. Differences are sentences; no sentence is no difference.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from lurm_model.bundle import Bundle
from lurm_model.inference.encoder import Encoder
from state.record import Ledger, decode_record
from state.rows import RECORD_KEY, decode_header
from stream.kafka.connection import broker_errors, consumer_arguments
from stream.kafka.topics import end_offsets
from stream.operations.bag_report import period_bags
from stream.operations.comparison import Check
from stream.operations.replay import Progress, State, newest_embeddings, newest_state, read_topic
from stream.records.embedding_record import Embedding, Foreign
from stream.settings import Settings
from stream.soak.reference import Bags
from stream.soak.traffic import Sent

# Of the length of a user's vectors: float32 rounding, which depends on who else is in a batch.
TOLERANCE = 1e-5
_BATCH_USERS = 1024
_SHOWN = 5


def is_applied(settings: Settings, share: float = 1.0) -> bool:
    """Whether this share of the source is committed by the group."""
    wanted = share * sum(end_offsets(settings, settings.topics.events).values())
    partitions = [TopicPartition(settings.topics.events, number) for number in range(settings.topics.partitions)]
    with broker_errors(settings.kafka):
        consumer = KafkaConsumer(**consumer_arguments(settings.kafka) | {"group_id": settings.app.id})
        try:
            return bool(sum(consumer.committed(each) or 0 for each in partitions) >= wanted)
        finally:
            consumer.close(autocommit=False)


def differences(settings: Settings, sent: Sent, progress: Progress | None = None) -> Iterator[str]:
    """Whatever is not as it must be, the seen embeddings excepted: see `unseen`."""
    yield from backward_steps(settings, progress)
    state = newest_state(settings, progress=progress)
    bundle = Bundle.load(_bundle(settings))
    yield from wrong_bags(state, bundle, sent.reference.bags(bundle.scales))
    yield from wrong_ledger(state.ledger, sent)
    for number, record in state.records.items():
        if record.faults():
            yield f"the ledger of a partition is wrong: partition={number} faults={record.faults()} {record.ledger}"
    n_letters = sum(map(len, read_topic(settings, settings.topics.dead_letters)))
    if n_letters != sent.n_poison:
        yield f"the dead letters are not the poison sent: found={n_letters} sent={sent.n_poison}"
    yield from wrong_embeddings(settings, state)
    yield from backward_embeddings(settings)


def wrong_ledger(found: Ledger, sent: Sent) -> Iterator[str]:
    """A ledger that is not what was sent; an erased event was applied before its erasure, or skipped after it."""
    expected = Ledger(sent.n_events + sent.n_poison, sent.n_events - found.skipped, found.skipped, sent.n_poison)
    if found != expected or found.skipped > sent.n_erased:
        yield f"the ledger is not what was sent: found={found} expected={expected} erased={sent.n_erased}"


def backward_steps(settings: Settings, progress: Progress | None = None) -> Iterator[str]:
    """Rows overwritten by older ones and partitions that went back, in the changelog's own order."""
    newest: dict[tuple[int, bytes], int] = {}
    for batch in read_topic(settings, settings.changelog_topic, progress):
        live = [record for record in batch if record.value is not None]
        rows = [record for record in live if record.key != RECORD_KEY]
        seqs = decode_header([record.value for record in rows])[0].tolist() if rows else []
        steps = [(record, seq) for record, seq in zip(rows, seqs, strict=True)]
        steps += [(record, decode_record(record.value).next_offset) for record in live if record.key == RECORD_KEY]
        for record, seq in steps:
            before = newest.get((record.partition, record.key), 0)
            if seq < before:
                where = f"partition={record.partition} offset={record.offset} key={record.key!r}"
                yield f"the changelog went back: {where} before={before} after={seq}"
            newest[record.partition, record.key] = max(seq, before)


def wrong_bags(state: State, bundle: Bundle, expected: Bags) -> Iterator[str]:
    """Bags that are not the reference's."""
    found: dict[Any, Mapping[int, int]] = {}
    for users, rows in state.batches(state.users(), _BATCH_USERS):
        found |= {(bag.user_id.encode(), bag.scale, bag.period): bag.interests
                  for bag in period_bags(users, rows, bundle.scales)}  # fmt: skip
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            both = f"found={dict(found.get(key, {}))} expected={dict(expected.get(key, {}))}"
            yield f"a bag is wrong: user={key[0]!r} {key[1]}={key[2]} {both}"


def wrong_embeddings(settings: Settings, state: State) -> Iterator[str]:
    """Users whose last embedding is not the full encode of their rows, or not of their newest row."""
    bundle = Bundle.load(_bundle(settings))
    check = Check(bundle, Encoder(bundle, "cpu"), TOLERANCE)
    published = newest_embeddings(settings)
    for users, rows in state.batches(state.users(), _BATCH_USERS):
        check.compare(users, rows, published)
    if check.counts["different"] or check.counts["pending"]:
        facts = f"{dict(check.counts)} first={check.examples} error={check.largest_error:.1e}"
        yield f"embeddings are not those of the bags: {facts}"
    without = sorted(published.keys() - {user.decode() for user in state.users()})
    if without:
        yield f"embeddings of users without rows: n={len(without)} first={without[:_SHOWN]}"


def backward_embeddings(settings: Settings) -> Iterator[str]:
    """Embeddings that followed a newer one of the same user."""
    newest: dict[str, int] = {}
    for embedding in map(Foreign().decode, chain.from_iterable(read_topic(settings, settings.topics.embeddings))):
        if isinstance(embedding, Embedding):
            before = newest.get(embedding.user_id, -1)
            if embedding.seq < before:
                yield f"an older embedding followed: user={embedding.user_id} before={before} after={embedding.seq}"
            newest[embedding.user_id] = max(before, embedding.seq)


def unseen(published: Mapping[str, Embedding], seen: Mapping[str, int]) -> list[str]:
    """Users whose last embedding a group was not given."""
    return sorted(user for user, embedding in published.items() if seen.get(user) != embedding.seq)


def _bundle(settings: Settings) -> Any:
    assert settings.model.bundle is not None  # noqa: S101 - a soak has made it
    return settings.model.bundle
