"""What the page's first half shows: partitions, workers and what is wrong, from both watches."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from state.record import Ledger, PartitionRecord
from stream.console.broker import BrokerView
from stream.kafka.lag import PartitionLag

# As the alerts LurmLagGrowing and LurmEncodingBehind.
_LATE_S = 60.0
_STALE_S = 15.0


def overview(
    broker: BrokerView, workers: Sequence[Mapping[str, Any]], records: Mapping[int, PartitionRecord], now_s: float
) -> dict[str, Any]:
    """Everything live; ``problems`` are sentences, empty while all is well."""
    owned: dict[int, list[tuple[str, Mapping[str, Any]]]] = {}
    for worker in workers:
        for each in worker.get("partitions", ()):
            owned.setdefault(each["partition"], []).append((worker["url"], each))
    lags = {each.partition: each for each in broker.partitions}
    partitions = [
        _partition(number, owned.get(number, []), lags.get(number), records.get(number))
        for number in sorted({*lags, *owned, *records})
    ]
    age_s = None if broker.read_at_s is None else max(0.0, now_s - broker.read_at_s)
    return {
        "broker": {"age_s": age_s, "error": broker.error, "behind_records": broker.behind},
        "workers": [{name: value for name, value in each.items() if name != "partitions"} | {
            "n_partitions": len(each.get("partitions", ()))} for each in workers],
        "partitions": partitions,
        "problems": [*_broker_problems(broker, age_s), *_worker_problems(workers), *_partition_problems(partitions)],
    }  # fmt: skip


def _partition(
    number: int,
    owners: Sequence[tuple[str, Mapping[str, Any]]],
    lag: PartitionLag | None,
    record: PartitionRecord | None,
) -> dict[str, Any]:
    """The ledger is the owner's; the changelog's, which is the same a moment later, where nobody asked owns it."""
    own = owners[0][1] if owners else {}
    ledger = own.get("ledger") or (msgspec.structs.asdict(record.ledger) if record else None)
    return {
        "partition": number,
        "owners": [url for url, _ in owners],
        "lag_events": lag.lag_events if lag else None,
        "lag_s": lag.lag_seconds if lag else None,
        "committed": lag.committed if lag else None,
        "end": lag.end if lag else None,
        "last_commit_age_s": own.get("last_commit_age_s"),
        "ledger": ledger,
        "balanced": Ledger(**ledger).balanced if ledger else None,
    }


def _broker_problems(broker: BrokerView, age_s: float | None) -> list[str]:
    if broker.error:
        return [f"The broker: {broker.error}"]
    if age_s is not None and age_s > _STALE_S:
        return [f"The broker has not answered for {age_s:.0f} s; its numbers are of then."]
    return []


def _worker_problems(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    for each in workers:
        if each["error"]:
            problems.append(f"Worker {each['url']}: {each['error']}")
        elif not each["ready"]:
            problems.append(f"Worker {each['url']} is not ready: {each['recovery_remaining_rows']} rows to recover.")
        elif each["dirty_oldest_s"] > _LATE_S:
            problems.append(f"Worker {each['url']}: a changed user waits for {each['dirty_oldest_s']:.0f} s.")
    return problems


def _partition_problems(partitions: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    for each in partitions:
        name = f"Partition {each['partition']}"
        if not each["owners"]:
            problems.append(f"{name}: no worker asked here owns it.")
        if len(each["owners"]) > 1:
            problems.append(f"{name}: several workers say they own it.")
        if each["balanced"] is False:
            problems.append(f"{name}: the ledger does not balance; see LurmLedgerBroken.")
        if (each["lag_s"] or 0) > _LATE_S:
            problems.append(f"{name}: {each['lag_events']} events wait, the first for {each['lag_s']:.0f} s.")
    return problems
