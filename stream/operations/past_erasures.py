"""What the topics say of erasures that were asked for before: which wait, and whose events a worker skips."""

from collections import Counter
from collections.abc import Mapping

from state.record import PartitionRecord
from stream.kafka.source import read_source
from stream.kafka.topics import end_offsets
from stream.operations.replay import read_topic
from stream.partition.erased import ErasedUsers
from stream.records.erasure import Answer, Marker, decode
from stream.settings import Settings


def waiting_erasures(settings: Settings) -> Counter[str]:
    """How many markers wait for their answer, by user."""
    if not end_offsets(settings, settings.control_topic):
        return Counter()
    waiting: dict[tuple[int, str], str] = {}
    for batch in read_topic(settings, settings.control_topic):
        for record in batch:
            said = decode(record.value)
            if isinstance(said, Marker):
                waiting[record.partition, said.id] = said.user
            elif isinstance(said, Answer):
                waiting.pop((record.partition, said.id), None)
    return Counter(waiting.values())


def erased_users(
    settings: Settings, records: Mapping[int, PartitionRecord], offsets: Mapping[int, tuple[int, int]]
) -> dict[int, ErasedUsers]:
    """Whose events each partition of the source skips from where it stands on; ``offsets``: its first and its end."""
    source = read_source(settings)
    passed = {number: source.continued(record, number).next_offset for number, record in records.items()}
    erased = {number: ErasedUsers(source.name) for number in offsets}
    for number, record in records.items():
        for user, end in record.still_erasing().items():
            erased[number].erase(user.encode(), end, passed[number])
    if end_offsets(settings, settings.erasures_topic):
        for batch in read_topic(settings, settings.erasures_topic):
            for number in {each.partition for each in batch} & erased.keys():
                erased[number].learn(batch, passed.get(number, 0), offsets[number][1])
    return erased
