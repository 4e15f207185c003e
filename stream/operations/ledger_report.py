"""Whether every source record is accounted for: each partition's ledger by itself, and beside its source.

By itself: received = applied + skipped + rejected, and no more received than offsets passed. Offsets without a record
are transaction markers and what retention took. Beside the source: its committed records below the next offset
are those received, or fewer where retention took some. An epoch above 0 has a ledger that spans topics, so
only the sum is checked.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from state.record import PartitionRecord
from stream.kafka.topics import offset_ranges
from stream.operations.replay import Progress, read_topic
from stream.settings import Settings


class SourcePart(NamedTuple):
    """What a source partition holds below the ledger's next offset, and the offsets it has."""

    start: int
    end: int
    n_records: int


def source_parts(
    settings: Settings, records: Mapping[int, PartitionRecord], progress: Progress | None = None
) -> dict[int, SourcePart]:
    """Read the whole source and count."""
    topic, counts = settings.topics.events, dict.fromkeys(records, 0)
    for batch in read_topic(settings, topic, progress):
        for record in batch:
            known = records.get(record.partition)
            if known is not None and record.offset < known.next_offset:
                counts[record.partition] += 1
    ranges = offset_ranges(settings, topic)
    return {number: SourcePart(*ranges[number], counts[number]) for number in records if number in ranges}


def partition_report(number: int, record: PartitionRecord, source: SourcePart | None) -> dict[str, Any]:
    """One partition's line; ``faults`` is empty when everything is accounted for."""
    ledger = record.ledger
    report: dict[str, Any] = {"partition": number, "epoch": record.epoch, "next_offset": record.next_offset}
    report |= msgspec.structs.asdict(ledger)
    if record.epoch == 0:
        report["offsets_without_record"] = record.next_offset - ledger.received
    faults = record.faults()
    if source is not None:
        report |= {"source_end": source.end, "in_source": source.n_records}
        faults += _source_faults(record, source)
    return report | {"balanced": ledger.balanced, "faults": faults}


def _source_faults(record: PartitionRecord, source: SourcePart) -> list[str]:
    faults = ["ahead_of_source"] if record.next_offset > source.end else []
    lost = source.n_records > record.ledger.received
    counted_twice = source.start == 0 and source.n_records < record.ledger.received
    return [*faults, "differs_from_source"] if record.epoch == 0 and (lost or counted_twice) else faults
