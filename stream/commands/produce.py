"""`lurm produce`: send a file's events to the events topic, keyed by user.

JSON lines go as they are, in the file's order, right or wrong: the worker decides. Other formats, and JSON lines whose
columns or unit of time are named, are read and go in order of time, with ts in milliseconds.
aiokafka rather than kafka-python, because it builds batches in C and so is many times faster.
"""

import asyncio
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import click
import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTimestampError, KafkaError, MessageSizeTooLargeError

from lurm_model.files.lines import lines_of
from lurm_model.files.reading import AS_NAMED, Reading
from state.errors import UNREADABLE
from stream.commands.progress import progress_bar
from stream.commands.reading import reading_options
from stream.commands.spans import Span
from stream.errors import BrokerUnavailable, ConfigInvalid, LurmError, TimeRefused, permission_missing
from stream.kafka.connection import aiokafka_arguments
from stream.kafka.topics import n_partitions
from stream.printable import say
from stream.records.partitioners import Partitioner, partitions_of
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  lurm produce purchases.jsonl
  lurm produce purchases.parquet --rate 5000 --max 100000
  lurm produce sales.csv --column user_id=customer --column item_id=sku --column ts=when --attribute category
  lurm produce clicks.jsonl --time-unit s
"""
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_CHUNK_EVENTS = 16_384
_PIECE_BYTES = 1 << 20
_LOOKED_AT = 1000
_TICKS_PER_S = 20
_BATCH_BYTES = 512 << 10


Ts = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Keyed(NamedTuple):
    """An event on its way; without a key when its user cannot be read."""

    key: bytes | None
    value: bytes


class Totals(NamedTuple):
    """What was sent."""

    n_events: int
    n_without_key: int
    seconds: float


class _User(msgspec.Struct):
    user_id: str
    ts: msgspec.Raw = msgspec.Raw()


class _Ids(msgspec.Struct):
    user_id: str | int | float
    item_id: str | int | float


class _Time(msgspec.Struct):
    ts: Ts | float | str


def _refuse_nan(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no rate")
    return value


@click.command(epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rate",
    type=click.FloatRange(0, 1e9, min_open=True),
    callback=_refuse_nan,
    help="Events per second. [default: as fast as it goes]",
)
@click.option("--max", "n_max", type=click.IntRange(1), help="Send this many events at most.")
@reading_options
@click.pass_obj
def produce(settings: Settings, file: Path, rate: float | None, n_max: int | None, reading: Reading) -> None:
    """Send the events of FILE (.jsonl, .csv or .parquet, also .jsonl.gz), keyed by user_id."""
    topic, span = settings.topics.events, Span()
    sent = deliver(settings, topic, islice(read_events(file, reading, span), n_max), rate, n_max)
    span.say()
    say(f"sent {sent.n_events} events in {sent.seconds:.1f} s: {sent.n_events / sent.seconds:.0f} events/s to {topic}")
    if sent.n_without_key:
        say(f"{sent.n_without_key} of them have no readable user_id: the worker will reject those", err=True)


def deliver(
    settings: Settings,
    topic: str,
    records: Iterator[Keyed],
    rate: float | None = None,
    n_max: int | None = None,
    what: str = "event",
) -> Totals:
    """Send these records to a topic, with a bar on a terminal.

    **Raises** `ConfigInvalid` when there is no such topic, `BrokerUnavailable`, `LurmError` when one is too large.
    """
    partitions = n_partitions(settings, topic, "Write")
    if not partitions:
        raise ConfigInvalid(f"the {what}s topic does not exist: topic={topic}; `lurm topics create` makes it")
    with progress_bar("sending") as progress:
        try:
            return asyncio.run(send(settings, records, partitions, rate, lambda n: progress(n, n_max or n), topic))
        except InvalidTimestampError as error:
            raise TimeRefused(f"topic={topic}") from error
        except MessageSizeTooLargeError as error:
            raise LurmError(f"an {what} is larger than the broker takes: {error}; see its message.max.bytes") from error
        except KafkaError as error:
            raise permission_missing(error, "Write") or BrokerUnavailable(
                f"the {what}s were not all sent: {error!r} brokers={settings.kafka.brokers}; is Kafka running?"
            ) from error


def read_events(path: Path, reading: Reading = AS_NAMED, span: Span | None = None) -> Iterator[Keyed]:
    """The events of a file; ``span`` takes in their times as they are read.

    **Raises** `ConfigInvalid` or ``EventsFileError`` before the first.
    """
    times = _Times(span or Span())
    if path.name.endswith(JSON_LINES) and reading == AS_NAMED:
        lines = _lines(path)
        first = list(islice(lines, _LOOKED_AT))
        if not first:
            raise ConfigInvalid(f"there are no events in the file: file={path}")
        _refuse_other_times(path, first)
        _refuse_other_ids(path, first)
        return times.of(_event_of(line) for line in chain(first, lines))
    from lurm_model.files.datasets import iter_records  # noqa: PLC0415 - pyarrow is slow to import

    records = iter_records(path, reading)
    first_records = list(islice(records, 1))
    encode = msgspec.json.Encoder().encode
    return times.of(
        (Keyed(record["user_id"].encode(), encode(record)), record["ts"]) for record in chain(first_records, records)
    )


class _Times:
    """Passes events on and tells a span their times, many at once."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def of(self, events: Iterator[tuple[Keyed, object]]) -> Iterator[Keyed]:
        """The events alone. A time that is no whole number is none."""
        times: list[int] = []
        for event, ts in events:
            if type(ts) is int:
                times.append(ts)
                if len(times) == _CHUNK_EVENTS:
                    self._span.add(np.array(times, np.int64))
                    times.clear()
            yield event
        self._span.add(np.array(times, np.int64))


def _refuse_other_times(path: Path, lines: list[bytes]) -> None:
    """Whole milliseconds are what goes over Kafka: in seconds all would be of January 1970, and texts are rejected."""
    from lurm_model.files.time_stamps import calendar_pattern, unit_of  # noqa: PLC0415 - pyarrow is slow to import

    others: list[object] = []
    for row, line in enumerate(lines, 1):
        with suppress(*UNREADABLE):
            ts = _decode_time(line).ts
            if not isinstance(ts, int):
                others.append(ts)
                continue
            unit = calendar_pattern(ts) or unit_of(ts) or "ms"
            if unit != "ms":
                looks = {"s": "seconds", "us": "microseconds", "ns": "nanoseconds"}.get(unit, "a date as a number")
                hint = f"--time-unit {unit} converts the file, --time-unit ms takes it at its word"
                raise ConfigInvalid(f"ts looks like {looks}, {hint}: ts={ts} file={path} event={row}")
            others.append(None)
    if others and None not in others:
        hint = "--time-unit iso, or a pattern, converts texts" if isinstance(others[0], str) else "write whole numbers"
        raise ConfigInvalid(
            f"ts is no whole number of milliseconds, so all would be rejected; {hint}: ts={others[0]} file={path}"
        )


def _refuse_other_ids(path: Path, lines: list[bytes]) -> None:
    """Ids go as they are written: numbers are all rejected, and `lurm train` knows nobody called 17850.0, but 17850."""
    from lurm_model.files.ids import WHOLE  # noqa: PLC0415 - pyarrow is slow to import

    is_text: dict[str, list[bool]] = {name: [] for name in _Ids.__struct_fields__}
    for row, line in enumerate(lines, 1):
        with suppress(*UNREADABLE):
            for name, found in msgspec.structs.asdict(_decode_ids(line)).items():
                is_text[name].append(isinstance(found, str))
                if isinstance(found, str) and re.match(WHOLE, found):
                    hint = f"train and evaluate read it without; --column {name}={name} converts the file"
                    raise ConfigInvalid(f"an id has a fraction, {hint}: {name}={found} file={path} event={row}")
    for name, found_texts in is_text.items():
        if found_texts and not any(found_texts):
            hint = f"--column {name}={name} converts whole numbers"
            raise ConfigInvalid(f"{name} is a number, so all would be rejected; {hint}: file={path} event=1")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        for lines in lines_of(path, _PIECE_BYTES):
            yield from filter(None, map(bytes.strip, lines))
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigInvalid(f"cannot read the events: {error.__class__.__name__}: {error} file={path}") from error


_decode_user = msgspec.json.Decoder(_User).decode
_decode_ids = msgspec.json.Decoder(_Ids).decode
_decode_time = msgspec.json.Decoder(_Time).decode


def _event_of(line: bytes) -> tuple[Keyed, object]:
    """A line under its user's key, if it can be read, and its time."""
    try:
        found = _decode_user(line)
        key, ts = found.user_id.encode(), bytes(found.ts)
    except (*UNREADABLE, UnicodeEncodeError):
        return Keyed(None, line), None
    return Keyed(key, line), int(ts) if ts.isdigit() and len(ts) < 19 else None


async def send(
    settings: Settings,
    events: Iterator[Keyed],
    partitions: int,
    rate: float | None,
    progress: Callable[[int], None],
    topic: str | None = None,
) -> Totals:
    """Send all events, idempotently, and wait until every replica has them; to the events topic unless one is named."""
    producer = AIOKafkaProducer(
        **aiokafka_arguments(settings.kafka), acks="all", enable_idempotence=True, max_batch_size=_BATCH_BYTES
    )
    await producer.start()
    try:
        sender = _Sender(producer, topic or settings.topics.events, partitions, _partitioner(settings, topic))
        return await _send_all(sender, events, rate, progress)
    finally:
        await producer.stop()


def _partitioner(settings: Settings, topic: str | None) -> Partitioner:
    """As the topic's other writers; of another topic than that of the events, any."""
    partitioner = settings.topics.partitioner if topic in (None, settings.topics.events) else "murmur2"
    if partitioner == "any":
        raise ConfigInvalid(
            f"where the topic's other producers place users is not known: topic={settings.topics.events} "
            "topics.partitioner=any; set LURM_TOPICS__PARTITIONER=murmur2, crc32 or fnv1a"
        )
    return partitioner


async def _send_all(
    sender: "_Sender", events: Iterator[Keyed], rate: float | None, progress: Callable[[int], None]
) -> Totals:
    n_chunk = _CHUNK_EVENTS if rate is None else max(1, int(rate / _TICKS_PER_S))
    started_s, n_sent = time.monotonic(), 0
    while chunk := list(islice(events, n_chunk)):
        await sender.send(chunk)
        n_sent += len(chunk)
        progress(n_sent)
        if rate is not None:
            await asyncio.sleep(started_s + n_sent / rate - time.monotonic())
    await sender.finish()
    return Totals(n_sent, sender.n_without_key, max(time.monotonic() - started_s, 1e-9))


class _Sender:
    """Sends chunks of events; at most one chunk waits for its acknowledgement while the next one is built."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int, partitioner: Partitioner) -> None:
        self.n_without_key = 0
        self._producer = producer
        self._topic = topic
        self._n_partitions = partitions
        self._partitioner = partitioner
        self._partition_of: dict[bytes, int] = {}
        self._unacknowledged: list[asyncio.Future[Any]] = []

    async def send(self, chunk: list[Keyed]) -> None:
        """Send a chunk and wait for the one before."""
        before, self._unacknowledged = self._unacknowledged, []
        for partition, events in self._by_partition(chunk).items():
            await self._send_partition(partition, events)
        await asyncio.gather(*before)

    async def finish(self) -> None:
        """Wait for the last chunk."""
        await asyncio.gather(*self._unacknowledged)

    def _by_partition(self, chunk: list[Keyed]) -> dict[int, list[Keyed]]:
        known = self._partition_of
        new = list({event.key for event in chunk if event.key is not None} - known.keys())
        # All writers of a topic must agree.
        known.update(zip(new, partitions_of(new, self._n_partitions, self._partitioner).tolist(), strict=True))
        parts: dict[int, list[Keyed]] = {}
        for event in chunk:
            if event.key is None:
                self.n_without_key += 1
                partition = self.n_without_key % self._n_partitions
            else:
                partition = known[event.key]
            parts.setdefault(partition, []).append(event)
        return parts

    async def _send_partition(self, partition: int, events: list[Keyed]) -> None:
        now_ms = int(time.time() * 1000)
        batch = self._producer.create_batch()
        for event in events:
            if batch.append(key=event.key, value=event.value, timestamp=now_ms) is None:
                await self._submit(batch, partition)
                batch = self._producer.create_batch()
                batch.append(key=event.key, value=event.value, timestamp=now_ms)  # a batch takes any first record
        await self._submit(batch, partition)

    async def _submit(self, batch: Any, partition: int) -> None:
        batch.close()
        self._unacknowledged.append(await self._producer.send_batch(batch, self._topic, partition=partition))
