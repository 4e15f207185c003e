"""Dirty marks against a plain model: whoever has an unpublished change has a mark, in memory and on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.dirty import DirtyMarks, Mark, MarkColumns

USERS = [b"ann", b"bob", b"cid"]
own = [
    st.tuples(st.just("add"), st.lists(st.sampled_from(USERS), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("take"), st.integers(1, 3)),
    st.tuples(st.just("publish"), st.just(0)),
    st.tuples(st.just("reopen"), st.just(0)),
    st.tuples(st.just("reassign"), st.just(0)),
]
others = st.tuples(
    st.just("other"), st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(["", "before", "all"])), max_size=4)
)


@dataclass
class Model:
    """What was changed and not published, as lists, and what the store has on disk."""

    changes: dict[bytes, list[tuple[int, int]]] = field(default_factory=lambda: {user: [] for user in USERS})
    in_flight: dict[bytes, int] = field(default_factory=dict)
    disk: dict[bytes, bytes] = field(default_factory=dict)
    marks: DirtyMarks = field(default_factory=DirtyMarks)
    seq: int = 0
    owned_seq: int = -1
    newest: dict[bytes, int] = field(default_factory=dict)

    def change(self, users: Iterable[bytes]) -> MarkColumns:
        """One more change of each user; days go up and down."""
        found = []
        for user in users:
            self.seq += 1
            day = (self.seq * 7) % 5
            self.changes[user].append((self.seq, day))
            self.newest[user] = self.seq
            found.append(Mark(self.seq, self.seq, 1000 + self.seq, day))
        return MarkColumns(*np.array(found, np.int64).reshape(-1, 4).T)

    def covered(self, user: bytes, newest: int) -> None:
        """An embedding was published that covers everything up to ``newest``."""
        self.changes[user] = [change for change in self.changes[user] if change[0] > newest]

    @property
    def unpublished(self) -> dict[bytes, list[tuple[int, int]]]:
        return {user: changes for user, changes in self.changes.items() if changes}

    @property
    def watermark(self) -> int:
        """What the owner writes down: everything below it is published."""
        return min((changes[0][0] for changes in self.unpublished.values()), default=self.seq + 1)

    def write(self, writes: Iterable[tuple[bytes, bytes | None]]) -> None:
        for user, value in writes:
            self.disk.pop(user, None) if value is None else self.disk.update({user: value})

    def step(self, name: str, argument: Any) -> None:
        marks = self.marks
        if name == "add":
            self.write(marks.add(argument, self.change(argument)))
            self.owned_seq = self.seq
        elif name == "take" and not self.in_flight:
            taken = marks.take(argument)
            firsts = [mark.first_seq for mark in taken.values()]
            assert firsts == sorted(firsts)
            self.in_flight = dict.fromkeys(taken, self.seq)
        elif name == "publish":
            self.write(marks.publish(list(self.in_flight)))
            for user, newest in self.in_flight.items():
                self.covered(user, newest)
            self.in_flight = {}
        elif name == "reopen":
            self.marks, self.in_flight = DirtyMarks(self.disk.items(), self.owned_seq), {}
        elif name in ("reassign", "other"):
            marks.sort()
            self.in_flight = {}
            if name == "other":
                self.owned_by_another(argument)

    def owned_by_another(self, changes: list[tuple[bytes, str]]) -> None:
        """Another worker owns the partition for a while; we replay what it wrote, and how much it has published."""
        for user, published in changes:
            columns = self.change([user])
            if published:
                self.covered(user, self.seq - (published == "before"))
            self.write(self.marks.replay([user], columns))
            self.owned_seq = self.seq  # the store remembers it
            self.write((user, None) for user in self.marks.drop_below(self.watermark))
        self.marks.sort()


def check_covered(model: Model) -> None:
    unpublished, marks = model.unpublished, model.marks
    assert len(marks) == len(model.disk) >= len(unpublished)
    for user, changes in unpublished.items():
        mark = Mark.decode(model.disk[user])
        assert mark.first_seq <= changes[0][0]
        assert mark.earliest_day <= min(day for _, day in changes)
    if unpublished:
        assert marks.oldest is not None
        assert marks.oldest.first_seq <= model.watermark


@given(st.lists(st.one_of(own), max_size=40))
def test_exactly_those_with_an_unpublished_change_have_a_mark(history: list) -> None:
    model = Model()
    for name, argument in history:
        model.step(name, argument)
        check_covered(model)
        assert len(model.marks) == len(model.unpublished)


@given(st.lists(st.one_of(*own, others), max_size=40))
def test_whoever_has_an_unpublished_change_has_a_mark_also_after_others_owned_the_partition(history: list) -> None:
    model = Model()
    for name, argument in history:
        model.step(name, argument)
        check_covered(model)


@given(st.lists(others, max_size=10))
def test_a_standby_forgets_whoever_is_below_the_watermark(history: list) -> None:
    model = Model()
    for name, argument in history:
        model.step(name, argument)
        kept = {user for user in model.disk if model.newest[user] >= model.watermark}
        assert set(model.disk) == kept


@given(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 4).map(lambda values: Mark(*values)))
def test_a_mark_survives_its_bytes(mark: Mark) -> None:
    assert Mark.decode(mark.encode()) == mark


def test_the_first_format_of_a_mark_is_read_for_ever() -> None:
    value = bytes.fromhex("0100000000000000020000000000000003000000000000000400000000000000")
    assert Mark.decode(value) == Mark(1, 2, 3, 4)


def test_forgotten_users_have_no_mark_whatever_their_state() -> None:
    marks = DirtyMarks([(b"ann", Mark(1, 1, 1, 1).encode()), (b"bob", Mark(2, 2, 2, 2).encode())])
    marks.take(1)
    marks.forget([b"ann", b"bob", b"nobody"])
    assert (len(marks), marks.oldest) == (0, None)
