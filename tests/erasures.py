"""Erasing users of a running application, and what must be left of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from state.periods import parse_scales
from state.record import Ledger
from stream.cli import cli
from stream.receipt import Receipt
from stream.settings import Settings
from tests.brokers import environment_of, read_records
from tests.plain import PlainEvent, bags, without_erased
from tests.workers import N_INTERESTS, Changelog, check_published


def erase(settings: Settings, user: str, *options: str) -> Result:
    """Run `lurm erase` here; settings come from the environment, as for anybody, and name no folder of the state."""
    environment = {name: value for name, value in environment_of(settings).items() if name != "LURM_STATE__DIR"}
    return CliRunner().invoke(cli, ["erase", user, *options], env=environment)


def erased(settings: Settings, user: str, *options: str) -> Receipt:
    """The receipt of an erasure that must succeed."""
    result = erase(settings, user, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return msgspec.json.decode(result.stdout, type=Receipt)


def events_by_place(settings: Settings) -> dict[tuple[int, int], PlainEvent]:
    """Every event that the source holds, by partition and offset."""
    records = read_records(settings, settings.topics.events, range(settings.topics.partitions))
    return {(record.partition, record.offset): _event(record) for record in records}


def _event(record: Any) -> PlainEvent:
    value = json.loads(record.value)
    return PlainEvent(record.key, int(value["item_id"].removeprefix("item-")) % N_INTERESTS, value["ts"])


def check_exact_without(settings: Settings, receipts: Sequence[Receipt]) -> Changelog:
    """What is left is what the events say that no erasure took; every event is in the ledger, the skipped ones too."""
    changelog, events = Changelog(settings), events_by_place(settings)
    skipped = set()
    ends: dict[bytes, dict[int, int]] = {}
    for receipt in receipts:
        user = receipt.user_id.encode()
        for each in receipt.partitions:
            ends.setdefault(user, {})[each.partition] = each.erased_below
            skipped |= {
                (number, offset)
                for (number, offset), event in events.items()
                if number == each.partition and event.user == user and each.applied_below <= offset < each.erased_below
            }
    left = without_erased(events, ends)
    assert changelog.bags() == bags(left, parse_scales("day,month"))
    assert changelog.ledger == Ledger(len(events), len(events) - len(skipped), len(skipped), 0)
    assert changelog.never_falls()
    check_published(settings)
    return changelog


def totals(receipt: Receipt) -> Mapping[str, int]:
    """What all partitions removed."""
    return msgspec.structs.asdict(receipt.removed)
