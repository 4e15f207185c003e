"""How to read a file of events or items: which columns are what, which become attributes, what unit its times have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

REQUIRED = ("user_id", "item_id", "ts")
OPTIONAL = ("type", "attributes")
TARGETS = (*REQUIRED, *OPTIONAL)
ITEM_TARGETS = ("item_id", "attributes")
# About 6 GiB while training. More events than this in one file teach hardly more than a sample of whole lives.
EVENTS_MAX = 20_000_000
# Beside these, a pattern as of strftime says how texts are written.
TIME_UNITS = ("auto", "s", "ms", "us", "ns", "iso")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file may be told of itself; the defaults read events: user_id, item_id, ts, type and attributes.

    ``columns`` maps these ``targets`` to the file's own columns, ``attributes`` names of attributes to columns of one
    value; ``delimiter`` separates the columns of a CSV file.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_unit: str = "auto"
    targets: Sequence[str] = TARGETS
    delimiter: str = ","

    @classmethod
    def parse(
        cls,
        columns: Sequence[str],
        attributes: Sequence[str] = (),
        time_unit: str = "auto",
        targets: Sequence[str] = TARGETS,
        delimiter: str = ",",
    ) -> "Reading":
        """The reading told by ``TARGET=COLUMN`` texts, and ``NAME=COLUMN`` or ``COLUMN`` ones for attributes.

        **Raises** ``ValueError`` for a text of another form, an unknown target, and whatever stands twice.
        """
        pairs = [_pair(text) for text in columns]
        if unknown := [target for target, _ in pairs if target not in targets]:
            raise ValueError(f"{unknown[0]!r} is no TARGET, use {', '.join(targets)}")
        _refuse_twice([target for target, _ in pairs])
        _refuse_twice([column for _, column in pairs])
        meant = {column: target for target, column in pairs}
        if taken := [name for name in REQUIRED if name in targets and name in meant and name not in dict(pairs)]:
            raise ValueError(f"the column {taken[0]!r} is {meant[taken[0]]}, say which one is {taken[0]}")
        named = [_pair(text if "=" in text else f"{text}={text}") for text in attributes]
        _refuse_twice([name for name, _ in named])
        return cls(dict(pairs), dict(named), time_unit, targets, delimiter)

    @classmethod
    def parse_items(
        cls, columns: Sequence[str] = (), attributes: Sequence[str] = (), delimiter: str = ","
    ) -> "Reading":
        """The same of a file of items: without columns that become attributes there must be one of attributes."""
        told = cls.parse(columns, attributes, targets=ITEM_TARGETS, delimiter=delimiter)
        return told if attributes else replace(told, columns={"attributes": "attributes", **told.columns})

    @property
    def sources(self) -> dict[str, str]:
        """The column each target is read from, where the file has it."""
        taken = set(self.columns.values())
        return {target: target for target in self.targets if target not in taken} | dict(self.columns)

    @property
    def required(self) -> list[str]:
        """The columns a file must have."""
        named = [name for target, name in self.sources.items() if target in REQUIRED or target in self.columns]
        return list(dict.fromkeys([*named, *self.attributes.values()]))


# Files whose columns are named like ours.
AS_NAMED = Reading()
ITEMS_AS_NAMED = Reading({"attributes": "attributes"}, targets=ITEM_TARGETS)


def _pair(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if not name or not column:
        raise ValueError(f"{text!r} is not NAME=COLUMN")
    return name, column


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"{twice[0]!r} is given twice")
