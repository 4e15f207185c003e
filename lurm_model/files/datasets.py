"""Where events come from: files, and a synthetic click-stream."""

import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from lurm_model.errors import EventsFileError
from lurm_model.events import Attributes, Events, UserLabels
from lurm_model.files.event_files import Columns, read_columns, read_parts
from lurm_model.files.labels import load_labels
from lurm_model.files.reading import AS_NAMED, EVENTS_MAX, Reading
from state.periods import MS_PER_DAY, Int64

logger = logging.getLogger("lurm")

HASHES = 1 << 32

__all__ = ["Events", "UserLabels", "iter_records", "load_events", "load_labels", "synthetic", "write_events"]


def load_events(
    paths: Sequence[Path],
    type_weights: Mapping[str, int] | None = None,
    events_max: int = EVENTS_MAX,
    reading: Reading = AS_NAMED,
) -> Events:
    """All events of these files, in order of time; an item has the attributes of its earliest event that has some.

    Of more than ``events_max`` events only a sample of users is kept, each with the whole life: half of them, a quarter
    and so on, by a hash of their ids. Only what is kept is held in memory.

    **Raises** `EventsFileError`: print it and stop.
    """
    files = sample_parts(chain.from_iterable(read_parts(Path(path), reading) for path in paths), events_max)
    if not sum(len(columns.ts_ms) for columns in files):
        raise EventsFileError(f"no events: file={','.join(str(path) for path in paths)} row=1")
    user, users = numbered([columns.user_id for columns in files])
    item, items = numbered([columns.item_id for columns in files])
    ts_ms = np.concatenate([columns.ts_ms for columns in files])
    weight = np.concatenate([_weights(columns, type_weights or {}) for columns in files])
    if unseen := sorted(set(type_weights or {}) - _types(files)):
        logger.warning("events.weights names types that no event has: %s", ", ".join(unseen))
    order = np.argsort(ts_ms, kind="stable")
    attributes, attributes_ms = _attributes_of_items(files, item, len(items))
    return Events(user[order], item[order], ts_ms[order], weight[order], users, items, attributes, attributes_ms)


def iter_records(path: Path, reading: Reading = AS_NAMED) -> Iterator[dict[str, Any]]:
    """The rows of a file in order of time: dictionaries as they go into an event's JSON.

    **Raises** `EventsFileError` before the first row: print it and stop.
    """
    columns = read_columns(Path(path), reading)
    types = columns.type.to_pylist() if columns.type is not None else None
    users, items, ts_ms = columns.user_id.to_pylist(), columns.item_id.to_pylist(), columns.ts_ms.tolist()
    for row in np.argsort(columns.ts_ms, kind="stable").tolist():
        record = {"user_id": users[row], "item_id": items[row], "ts": ts_ms[row]}
        if types and types[row]:
            record["type"] = types[row]
        if columns.attributes and columns.attributes[row]:
            record["attributes"] = columns.attributes[row]
        yield record


def write_events(events: Events, path: Path) -> None:
    """Write events as ``.jsonl`` or ``.parquet``, in order of time."""
    records = (
        {"user_id": events.users[u], "item_id": events.items[i], "ts": ts, "attributes": events.item_attributes[i]}
        for u, i, ts in zip(events.user.tolist(), events.item.tolist(), events.ts_ms.tolist(), strict=True)
    )
    if path.suffix == ".parquet":
        schema = pa.schema(
            [
                ("user_id", pa.string()),
                ("item_id", pa.string()),
                ("ts", pa.int64()),
                ("attributes", pa.map_(pa.string(), pa.list_(pa.string()))),
            ]
        )
        rows = [record | {"attributes": list(record["attributes"].items())} for record in records]
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        return
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.writelines(encoder.encode(record) + b"\n" for record in records)


def synthetic(
    n_users: int = 1000, n_items: int = 500, n_groups: int = 4, n_days: int = 90, seed: int = 0
) -> tuple[Events, UserLabels]:
    """A synthetic click-stream with known latent interests; its labels are the users' groups.

    Every group prefers its own share of the topics, every item belongs to a topic (its attribute ``topic``) and has a
    Zipf popularity, and a third of the users stop half way. **Source**: our decision; nothing real is claimed by it.
    """
    rng = np.random.default_rng(seed)
    n_topics = 4 * n_groups
    topic = rng.integers(n_topics, size=n_items)
    popularity = 1.0 / (1 + rng.permutation(n_items)) ** 0.7
    group = rng.integers(n_groups, size=n_users)
    n_events = 5 + rng.poisson(rng.gamma(2.0, 10.0, size=n_users))
    user = np.repeat(np.arange(n_users), n_events)
    item = np.empty(len(user), np.int64)
    for g in range(n_groups):
        rows = np.flatnonzero(group[user] == g)
        share = popularity * np.where(topic % n_groups == g, 4.0, 1.0)
        item[rows] = rng.choice(n_items, size=len(rows), p=share / share.sum())
    last = np.where(rng.random(n_users) < 1 / 3, 0.5, 1.0)[user]
    start = 11_322 * MS_PER_DAY  # 2001-01-01
    ts_ms = start + (rng.random(len(user)) * last * n_days * MS_PER_DAY).astype(np.int64)
    order = np.argsort(ts_ms, kind="stable")
    ones = np.ones(len(user), np.int64)
    users = [f"synthetic-{u}" for u in range(n_users)]
    items = [f"item-{i}" for i in range(n_items)]
    attributes: list[Attributes] = [{"topic": [str(t)]} for t in topic]
    events = Events(user[order], item[order], ts_ms[order], ones, users, items, attributes)
    return events, UserLabels(users, {"group": [str(g) for g in group]})


def sample_parts(parts: Iterable[Columns], events_max: int) -> list[Columns]:
    """Whole lives of a share of the users, never more than ``events_max`` events and a part at a time.

    **Raises** `EventsFileError` where there are events, and no life is that short.
    """
    kept: list[Columns] = []
    share, n_events = HASHES, 0
    for part in parts:
        n_events += len(part.ts_ms)
        kept.append(_of_share(part, share))
        while sum(len(columns.ts_ms) for columns in kept) > events_max and share > 1:
            share //= 2
            kept = [_of_share(columns, share) for columns in kept]
    if n_events and not any(len(columns.ts_ms) for columns in kept):
        raise EventsFileError(f"a sample of whole lives is empty, raise --events-max: {events_max=} events={n_events}")
    return kept


def _of_share(columns: Columns, share: int) -> Columns:
    """The rows of users whose hash is below the share."""
    if share == HASHES:
        return columns
    encoded = columns.user_id.dictionary_encode()
    chosen = np.array([zlib.crc32(user.encode()) < share for user in encoded.dictionary.to_pylist()], np.bool_)
    return columns.where(chosen[encoded.indices.to_numpy()])


def numbered(columns: Sequence[Any]) -> tuple[Int64, list[str]]:
    """Texts as numbers in order of appearance, and the texts. **Shapes**: at least one column."""
    # One array holds no more than 2 GiB of texts; the chunks share one dictionary.
    chunks = pa.chunked_array(columns).dictionary_encode().chunks
    indices = np.concatenate([chunk.indices.to_numpy().astype(np.int64) for chunk in chunks])
    return indices, chunks[-1].dictionary.to_pylist()


def _types(files: Sequence[Columns]) -> set[str]:
    return {kind for columns in files if columns.type is not None for kind in columns.type.unique().to_pylist() if kind}


def _weights(columns: Columns, type_weights: Mapping[str, int]) -> Int64:
    if not type_weights or columns.type is None:
        return np.ones(len(columns.ts_ms), np.int64)
    encoded = columns.type.dictionary_encode()
    weights = np.array([*(type_weights.get(kind, 1) for kind in encoded.dictionary.to_pylist()), 1], np.int64)
    return np.asarray(weights[pc.fill_null(encoded.indices, len(weights) - 1).to_numpy()])


def _attributes_of_items(files: Sequence[Columns], item: Int64, n_items: int) -> tuple[list[Attributes], Int64]:
    """Every item's attributes of the earliest event that has some, and its time; the largest number if none has."""
    attributes: list[Attributes] = [{} for _ in range(n_items)]
    told_ms = [np.iinfo(np.int64).max] * n_items
    start = 0
    for columns in files:
        stop = start + len(columns.ts_ms)
        if columns.attributes is not None:
            rows = zip(item[start:stop].tolist(), columns.ts_ms.tolist(), columns.attributes, strict=True)
            for i, ts_ms, values in rows:
                if values and ts_ms < told_ms[i]:
                    attributes[i], told_ms[i] = values, ts_ms
        start = stop
    return attributes, np.array(told_ms, np.int64)
