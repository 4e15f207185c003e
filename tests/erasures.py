"""Erasing users of a running application, and what must be left of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from state.periods import MS_PER_DAY, parse_scales
from state.record import Ledger
from stream.cli import cli
from stream.operations.erasure_request import Asked, wait_for_answers
from stream.operations.receipt import Receipt, make_receipts
from stream.settings import Settings
from tests.brokers import environment_of, read_records
from tests.plain import PlainEvent, bags, without_erased
from tests.workers import DEADLINE_S, FIRST_DAY, N_INTERESTS, Changelog, check_published


def life(user: str, n_events: int) -> list[PlainEvent]:
    """Events on as many days."""
    return [
        PlainEvent(user.encode(), number % N_INTERESTS, (FIRST_DAY + number % 50) * MS_PER_DAY + number)
        for number in range(n_events)
    ]


def lurm(settings: Settings, *arguments: str) -> Result:
    """Run a command here; settings come from the environment, as for anybody, and name no folder of the state."""
    environment = {name: value for name, value in environment_of(settings).items() if name != "LURM_STATE__DIR"}
    return CliRunner().invoke(cli, arguments, env=environment)


def erased(settings: Settings, user: str, *options: str) -> Receipt:
    """The receipt of an erasure that must succeed."""
    result = lurm(settings, "erase", user, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return msgspec.json.decode(result.stdout, type=Receipt)


def receipt_of(settings: Settings, asked: Asked) -> Receipt:
    """The receipt of an erasure of one user that was asked for before."""
    said = wait_for_answers(settings, asked, DEADLINE_S)
    assert not said.unanswered(asked)
    (receipt,) = make_receipts(settings, asked, said, lambda done, total: None, with_events=True)
    assert receipt.verified.ok, receipt
    assert receipt.verified.outlives, receipt
    return receipt


def another_application(settings: Settings, folder: Path) -> Settings:
    """Another application id on the same events, as the runbook says: its own embeddings, dead letters and disk."""
    name = f"{settings.app.id}-next"
    own = {"embeddings": f"{name}-embeddings", "dead_letters": f"{name}-dead-letters"}
    return settings.model_copy(
        update={
            "app": settings.app.model_copy(update={"id": name}),
            "topics": settings.topics.model_copy(update=own),
            "state": settings.state.model_copy(update={"dir": folder / "state-next"}),
        }
    )


def check_exact_without(settings: Settings, receipts: Sequence[Receipt], *, anew: bool = False) -> Changelog:
    """What is left is what the events say that no erasure took; every event is in the ledger, the skipped ones too.

    ``anew``: the state was counted from the first event on after the erasures, so it skipped all that they took.
    """
    changelog, events = Changelog(settings), _events_by_place(settings)
    ends: dict[bytes, dict[int, int]] = {}
    skipped: set[tuple[int, int]] = set()
    for receipt in receipts:
        user = receipt.user_id.encode()
        earlier = [part for former in receipt.earlier for part in former.partitions]
        for each in [*receipt.partitions, *earlier]:
            own = ends.setdefault(user, {})
            own[each.partition] = max(own.get(each.partition, 0), each.erased_below)
            skipped |= {
                (number, offset)
                for (number, offset), event in events.items()
                if number == each.partition
                and event.user == user
                and (0 if anew else each.applied_below) <= offset < each.erased_below
            }
    expected = bags(without_erased(events, ends), parse_scales("day,month"))
    found = changelog.bags()
    wrong = {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
    assert not wrong, f"{len(wrong)} of {len(expected)} bags differ: {sorted(wrong)[:3]}"
    assert changelog.ledger == Ledger(len(events), len(events) - len(skipped), len(skipped), 0)
    assert changelog.never_falls()
    check_published(settings)
    return changelog


def _events_by_place(settings: Settings) -> dict[tuple[int, int], PlainEvent]:
    """Every event that the source holds, by partition and offset."""
    records = read_records(settings, settings.topics.events, range(settings.topics.partitions))
    return {(record.partition, record.offset): _event(record) for record in records}


def _event(record: Any) -> PlainEvent:
    value = json.loads(record.value)
    return PlainEvent(record.key, int(value["item_id"].removeprefix("item-")) % N_INTERESTS, value["ts"])
