"""Behaviour events: the schema, and decoding a whole batch of Kafka records into columns.

An event is a JSON object with ``user_id``, ``item_id`` and ``ts`` (Unix ms), perhaps ``type`` and ``attributes``; the
record's key is the user id. Whatever is no acceptable event is rejected with a reason and never slows its neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta, Struct

from lurm_model.interests.attribute_sets import AttributeSets, NewSets
from lurm_model.interests.codebook import Codebook, WrittenAttributes
from state.bags import UInt32
from state.errors import UNREADABLE
from state.periods import TS_MS_MAX, TS_MS_MIN, Int64, Scale
from stream.outcomes import Reason
from stream.records.arrival import LeftOut
from stream.settings import Events

ID_BYTES_MAX: Final = 256
# An accepted event of before is counted apart: whoever writes its time may mean another unit.
MS_OF_2000: Final = 946_684_800_000
# Seconds of the years 2000 to 2100, which as milliseconds are days in January and February 1970.
_SECONDS: Final = (946_684_800, 4_102_444_800)
# After a batch fails to decode at once, its pieces of this size are tried, and only a failing piece one by one.
_PIECE: Final = 256
# How far back events may go unless a setting says otherwise. A change of an old day encodes the whole life anew, in the
# thread that all share, .2 ms a period: 50 years have 600 months, 10 years 3,650 days where nothing rolls them up.
_AGE_S_MAX, _AGE_S_MAX_OF_DAYS = 50 * 31_557_600, 10 * 31_557_600
_SETTING: Final = {Reason.FUTURE: "events.future_s_max", Reason.TOO_OLD: "events.age_s_max"}
# What JSON takes for blank between its tokens.
_BLANK: Final = b" \t\r\n"


class SourceRecord(Protocol):
    """What we read of a Kafka record; ``timestamp`` in Unix milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class EventRejected(Exception):
    """One event is unacceptable: send it to the dead letters and go on."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Rejection(NamedTuple):
    """A record that is no acceptable event, and why."""

    record: SourceRecord
    reason: Reason
    message: str


Identifier = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]


class Event(Struct, gc=False):
    """An event as it stands in the record's value; unknown fields are ignored."""

    user_id: Identifier
    item_id: Identifier
    ts: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    type: str | None = None
    attributes: WrittenAttributes | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What an acceptable event is. **Units**: bytes, milliseconds; ``age_ms_max`` 0 means any age."""

    value_bytes_max: int
    future_ms_max: int
    age_ms_max: int

    @classmethod
    def of(cls, settings: Events, scales: Sequence[Scale]) -> "Limits":
        """What these settings accept; the age that they leave open bounds how many periods a life may have."""
        age_s_max = settings.age_s_max
        if age_s_max < 0:
            age_s_max = _AGE_S_MAX if len(scales) > 1 else _AGE_S_MAX_OF_DAYS
        return cls(settings.value_bytes_max, settings.future_s_max * 1000, age_s_max * 1000)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Accepted events as columns, in order of their offsets.

    **Shapes**: user (index into ``users``), ts_ms, offset, record_ms int64[n]; interest and weight uint32[n].
    """

    users: list[bytes]
    user: Int64
    interest: UInt32
    weight: UInt32
    ts_ms: Int64
    offset: Int64
    record_ms: Int64
    rejected: list[Rejection]
    n_unknown_items: int

    def __len__(self) -> int:
        return len(self.user)


class Parsed(NamedTuple):
    """Acceptable events, before all their interests are known.

    ``interest`` int64[n] is -1 for those of ``pending`` (their indices), whose interests are those of ``new``.
    """

    records: list[SourceRecord]
    events: list[Event]
    ts_ms: Int64
    rejected: list[Rejection]
    interest: Int64
    pending: Int64
    new: NewSets


class EventDecoder:
    """Decodes batches for one codebook; a pure function of the records, the time it is given and what is ``learned``.

    An item's interest: the codebook's, else the learned one, else what the event's own attributes say, else unknown.
    """

    def __init__(
        self, codebook: Codebook, weights: Mapping[str, int], limits: Limits, learned: Mapping[str, int] | None = None
    ) -> None:
        self._codebook = codebook
        self._learned = {} if learned is None else learned
        self._weights = dict(weights)
        self._limits = limits
        self._one = msgspec.json.Decoder(Event)
        self.sets = AttributeSets(codebook)

    def decode(self, records: Sequence[SourceRecord], now_ms: int) -> EventBatch:
        """Columns of the acceptable events, and the rest with its reasons; as its three steps at once."""
        parsed = self.parse(records, now_ms)
        return self.finish(parsed, self.sets.find(parsed.new.sets))

    def parse(self, records: Sequence[SourceRecord], now_ms: int) -> Parsed:
        """What is known at once; whoever must not wait looks for the interests of the new sets elsewhere."""
        rejected: list[Rejection] = []
        kept, events = self._parse(records, rejected)
        ts_ms = np.array([event.ts for event in events], np.int64)
        late = self._time_reasons(ts_ms, now_ms)
        if late:
            rejected += [Rejection(kept[i], reason, _why(reason, events[i].ts, now_ms)) for i, reason in late.items()]
            rejected.sort(key=lambda rejection: rejection.record.offset)
            fine = [i for i in range(len(kept)) if i not in late]
            kept, events, ts_ms = [kept[i] for i in fine], [events[i] for i in fine], ts_ms[fine]
        return Parsed(kept, events, ts_ms, rejected, *self._interests(events))

    def finish(self, parsed: Parsed, interests: Int64) -> EventBatch:
        """The columns, once the interests of all new sets are found."""
        self.sets.remember(parsed.new, interests)
        records, events, interest = parsed.records, parsed.events, parsed.interest
        interest[parsed.pending] = interests[parsed.new.of_item]
        n = len(records)
        index: dict[bytes | None, int] = {}
        add = index.setdefault
        user = np.array([add(record.key, len(index)) for record in records], np.int64)
        weight = np.ones(n, np.uint32)
        if self._weights:
            get = self._weights.get
            weight = np.fromiter([get(event.type or "", 1) for event in events], np.uint32, n)
        return EventBatch(
            users=[key for key in index if key is not None],
            user=user,
            interest=interest.astype(np.uint32),
            weight=weight,
            ts_ms=parsed.ts_ms,
            offset=np.array([record.offset for record in records], np.int64),
            record_ms=np.array([record.timestamp for record in records], np.int64),
            rejected=parsed.rejected,
            n_unknown_items=int(np.count_nonzero(interest == self._codebook.unknown)),
        )

    def _interests(self, events: Sequence[Event]) -> tuple[Int64, Int64, NewSets]:
        get = self._codebook.interest_of.get
        found = np.array([get(event.item_id, -1) for event in events], np.int64)
        missed = np.flatnonzero(found < 0)
        learned, unknown = self._learned.get, self._codebook.unknown
        new = [events[i] for i in missed.tolist()]
        # An item that is not learned counts to what its own attributes say, never to what an earlier event's said.
        found[missed] = [learned(event.item_id, -1 if event.attributes else unknown) for event in new]
        asked = np.flatnonzero(found < 0)
        found[asked], sets = self.sets.look_up([events[i].attributes or {} for i in asked.tolist()])
        return found, asked[found[asked] < 0], sets

    def _time_reasons(self, ts_ms: Int64, now_ms: int) -> dict[int, Reason]:
        newest = min(now_ms + self._limits.future_ms_max, TS_MS_MAX)
        oldest = max(now_ms - self._limits.age_ms_max, TS_MS_MIN) if self._limits.age_ms_max else TS_MS_MIN
        reasons = dict.fromkeys(np.flatnonzero(ts_ms > newest).tolist(), Reason.FUTURE)
        reasons |= dict.fromkeys(np.flatnonzero(ts_ms < oldest).tolist(), Reason.TOO_OLD)
        in_seconds = (ts_ms >= _SECONDS[0]) & (ts_ms < _SECONDS[1])
        return reasons | dict.fromkeys(np.flatnonzero(in_seconds).tolist(), Reason.WRONG_UNIT)

    def _parse(
        self, records: Sequence[SourceRecord], rejected: list[Rejection]
    ) -> tuple[list[SourceRecord], list[Event]]:
        events = self._parse_together(records)
        if events is not None:
            return list(records), events
        kept: list[SourceRecord] = []
        parsed: list[Event] = []
        for start in range(0, len(records), _PIECE):
            piece = records[start : start + _PIECE]
            events = self._parse_together(piece) if len(records) > _PIECE else None
            if events is not None:
                kept += piece
                parsed += events
                continue
            for record in piece:
                # Called from here, as are those together: how deep JSON may be nested depends on the stack below.
                try:
                    parsed.append(self._parse_one(record))
                    kept.append(record)
                except EventRejected as error:
                    rejected.append(Rejection(record, error.reason, str(error)))
        return kept, parsed

    def _parse_together(self, records: Sequence[SourceRecord]) -> list[Event] | None:
        """All events at once; None when any of them is unacceptable, whichever it is."""
        values = [record.value for record in records if record.value]
        if len(values) < len(records) or max(map(len, values), default=0) > self._limits.value_bytes_max:
            return None
        # Who writes blanks around objects does so around all of them.
        if values and values[0] != values[0].strip(_BLANK):
            values = [value.strip(_BLANK) for value in values]
        joined = b"\n".join(values)
        if not _is_one_object_a_line(joined, len(values)):
            return None
        try:
            events: list[Event] = self._one.decode_lines(joined)
        except UNREADABLE:
            return None
        # Without escapes and in ASCII no id can have more bytes than characters, whose number is checked above.
        plain = joined.isascii() and b"\\" not in joined
        fit = len(events) == len(records) and _are_keys(events, records) and (plain or _ids_fit(events))
        return events if fit else None

    def _parse_one(self, record: SourceRecord) -> Event:
        value = record.value or b""
        n_bytes = record.value.n_bytes if isinstance(record.value, LeftOut) else len(value)
        if n_bytes > self._limits.value_bytes_max:
            raise EventRejected(Reason.TOO_LARGE, f"bytes={n_bytes} limit={self._limits.value_bytes_max}")
        try:
            event = self._one.decode(value)
        except msgspec.ValidationError as error:
            reason = Reason.MISSING_FIELD if "missing required field" in str(error) else Reason.WRONG_TYPE
            raise EventRejected(reason, str(error)) from error
        except UNREADABLE as error:
            raise EventRejected(Reason.NOT_JSON, str(error)) from error
        _refuse_bad_ids(record.key, event)
        return event


def _is_one_object_a_line(lines: bytes, n_lines: int) -> bool:
    """Whether each of n values is a line that begins and ends with a brace.

    Then as many objects as lines are one object a line: between ``}`` and ``{`` no object and no string goes on, so no
    value lends another a part of itself or a second object.
    """
    if not (lines.startswith(b"{") and lines.endswith(b"}")):
        return False
    characters = np.frombuffer(lines, np.uint8)
    breaks = (characters == ord("\n")).nonzero()[0]
    apart = (characters[breaks - 1] == ord("}")) & (characters[breaks + 1] == ord("{"))
    return len(breaks) == n_lines - 1 and bool(apart.all())


def _why(reason: Reason, ts: int, now_ms: int) -> str:
    hint = f"{_SETTING[reason]} is the limit" if reason in _SETTING else "that is seconds, milliseconds are wanted"
    if reason is Reason.FUTURE and ts > 100 * now_ms:
        hint = "are these micro- or nanoseconds? milliseconds are wanted"
    return f"ts={ts} now={now_ms}; {hint}"


def _are_keys(events: Sequence[Event], records: Sequence[SourceRecord]) -> bool:
    """Whether each event's user id is its record's key, none of them with a NUL."""
    keys = [record.key for record in records if record.key is not None]
    joined = b"\0".join(keys)
    # Surrogates have no UTF-8, so an id with one equals no key.
    users = "\0".join([event.user_id for event in events]).encode("utf-8", "replace")
    return len(keys) == len(events) and users == joined and joined.count(b"\0") == max(len(keys) - 1, 0)


def _ids_fit(events: Sequence[Event]) -> bool:
    """Whether all ids are valid unicode and short enough in bytes."""
    try:
        longest = max(max(len(event.user_id.encode()), len(event.item_id.encode())) for event in events)
    except UnicodeEncodeError:
        return False
    return longest <= ID_BYTES_MAX


def _refuse_bad_ids(key: bytes | None, event: Event) -> None:
    try:
        user, item = event.user_id.encode(), event.item_id.encode()
    except UnicodeEncodeError as error:
        raise EventRejected(Reason.WRONG_TYPE, "an id is no valid unicode text") from error
    if len(user) > ID_BYTES_MAX or len(item) > ID_BYTES_MAX:
        raise EventRejected(Reason.WRONG_TYPE, f"an id is longer than {ID_BYTES_MAX} bytes")
    if b"\0" in user:
        raise EventRejected(Reason.WRONG_TYPE, "user_id contains a NUL")
    if key != user:
        raise EventRejected(Reason.KEY_MISMATCH, "the record's key is not user_id")
