"""A ledger that is broken on purpose, as nothing of ours ever may."""

from msgspec.structs import replace

from state.record import encode_record
from state.rows import RECORD_KEY
from stream.operations.replay import newest_state
from stream.settings import Settings
from tests.brokers import producer


def lose_one(settings: Settings, partition: int) -> int:
    """Write the partition's record with one applied event less; how many it received."""
    record = newest_state(settings).records[partition]
    ledger = replace(record.ledger, applied=record.ledger.applied - 1)
    with producer(settings, f"{settings.app.id}-{partition}") as client:
        client.begin_transaction()
        client.send(
            settings.changelog_topic, encode_record(replace(record, ledger=ledger)), RECORD_KEY, partition=partition
        )
        client.commit_transaction()
    return ledger.received
