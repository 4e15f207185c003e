"""Whatever order things come in, each embedding is right when it is published: events, also late ones, encodes,
roll-ups, crashes, owners, models, erasures, disks that are lost or return, embeddings topics that are made anew.

Every embedding is compared with the full encode of the user's plain events up to its ``seq`` the moment it is committed
(`tests.one_partition`); at the end of a history everybody's newest is published, of the newest model, nobody's who was
erased, and every disk counts each event once.
"""

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from aiokafka.errors import ProducerFenced
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lurm_model.bundle import Bundle
from lurm_model.inference.incremental import IncrementalEncoder
from stream import failpoints
from stream.failpoints import STEPS
from stream.testing.bundle import FIRST_DAY, N_INTERESTS, tiny_bundle
from tests.one_partition import Disk, Model, OnePartition, on_day
from tests.plain import PlainEvent


def model(scales: str, seed: int) -> Model:
    """Of weights so small that a recurrence of many periods does not make much of rounding."""
    tiny = tiny_bundle(model_seed=seed, scales=scales)
    weights = {name: np.float32(0.5) * each for name, each in tiny.weights.items()}
    bundle = Bundle.build(tiny.config, tiny.codebook, weights, {}, {})
    return Model(bundle, IncrementalEncoder(bundle, "cpu"))


MODELS = {scales: [model(scales, seed) for seed in range(2)] for scales in ("day,month", "day", "day,week,year")}
USERS = [b"ann", b"bob"]
OF_BATCHES = [step for step in STEPS if step.startswith("batch.")]
OF_ENCODES = [step for step in STEPS if step.startswith(("encode.", "roll_up."))]
OF_ERASURES = [step for step in STEPS if step.startswith(("erase.", "erase_embedding.", "check."))]

# Where a day is counted from, and how far from it: the day after the one that a cache closes is a day like no other,
# and so are the turns of two and more months, after which days leave the window.
late = st.tuples(st.sampled_from(["closed before", "closed before", "last closed"]), st.sampled_from([0, 0, 0, -1, 1]))
ahead = st.tuples(st.just("newest"), st.sampled_from([62, 100, 100, 400]))
near = st.tuples(st.just("newest"), st.sampled_from([0, 1, 2, 31, 62, 100, 100, 400, -1, -40]))


def events_on(*days: st.SearchStrategy[tuple[str, int]], least: int = 0) -> st.SearchStrategy["Drawn"]:
    """A few events, most of them of one user."""
    user, interest = st.sampled_from([b"ann", b"ann", b"ann", b"bob"]), st.integers(0, N_INTERESTS - 1)
    return st.lists(st.tuples(user, st.one_of(*days), interest, st.sampled_from([1, 3])), min_size=least, max_size=3)


drawn_events = events_on(late, near, least=1)
Drawn = list[tuple[bytes, tuple[str, int], int, int]]


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Each crash collects what is held of a database: not all that other tests hold again."""
    gc.freeze()
    yield
    gc.unfreeze()


class Orders(RuleBasedStateMachine):
    """One partition, two workers."""

    @initialize(scales=st.sampled_from([*MODELS, "day,month"]))
    def begin(self, scales: str) -> None:
        self.folder, self.models = tempfile.mkdtemp(), MODELS[scales]
        self.all = OnePartition(Path(self.folder), self.models)
        self.after_closed = {user: [FIRST_DAY, FIRST_DAY] for user in USERS}

    @property
    def owner(self) -> Disk:
        return self.all.owner

    @property
    def other(self) -> Disk:
        return next(disk for disk in self.all.disks if disk is not self.owner)

    def dated(self, drawn: Drawn) -> list[PlainEvent]:
        """The events, their days counted from what the user has by then."""
        newest = {user: max(self.all.days(user), default=FIRST_DAY) for user in USERS}
        found = []
        for user, (since, n), interest, weight in drawn:
            closed = self.after_closed[user]
            day = {"newest": newest[user], "last closed": closed[-1], "closed before": closed[-2]}[since] + n
            newest[user] = max(newest[user], day)
            found.append(on_day(user, day, interest, weight))
        return found

    @rule(drawn=drawn_events)
    def events_are_applied(self, drawn: Drawn) -> None:
        self.all.apply(*self.dated(drawn))

    @precondition(lambda self: not self.owner.encodes)
    @rule(before=st.sampled_from(["read", "written"]))
    def an_encode_begins(self, before: str) -> None:
        if len(self.owner.store.marks):
            self.note_closed()
            self.all.run(self.owner.begin_encode(before=before))

    @precondition(lambda self: self.owner.encodes)
    @rule()
    def an_encode_ends(self) -> None:
        self.all.run(self.owner.end_encode())

    @precondition(lambda self: not self.owner.encodes)
    @rule(before=st.sampled_from(["read", "written"]), during=events_on(ahead, near), after=events_on(late))
    def events_come_while_an_encode_is_in_flight(self, before: str, during: Drawn, after: Drawn) -> None:
        self.an_encode_begins(before)
        self.all.apply(*self.dated(during))
        self.all.run(self.owner.end_encode())
        self.all.apply(*self.dated(after))

    @precondition(lambda self: not self.owner.encodes)
    @rule()
    def everybody_is_encoded(self) -> None:
        self.note_closed()
        self.all.run(self.owner.encode_all())

    @rule(step=st.sampled_from(OF_BATCHES), drawn=drawn_events)
    def killed_in_a_batch(self, step: str, drawn: Drawn) -> None:
        failpoints._failpoint.arm(f"{step}=raise")
        self.all.send(*self.dated(drawn))
        self.dies(self.all.apply)

    @rule(
        step=st.sampled_from([*OF_ENCODES, "roll_up.applied", "roll_up.applied"]),
        settled=events_on(near, least=1),
        before=events_on(ahead, least=1),
        after=events_on(late, least=1),
        compacted=st.booleans(),
    )
    def killed_in_an_encode(self, step: str, settled: Drawn, before: Drawn, after: Drawn, compacted: bool) -> None:
        self.all.apply(*self.dated(settled))
        self.everybody_is_encoded()
        self.all.apply(*self.dated(before))
        failpoints._failpoint.arm(f"{step}=raise")
        self.note_closed()
        self.dies(lambda: self.all.run(self.owner.encode_all()), compacted=compacted)
        self.all.apply(*self.dated(after))

    def dies(self, step: Callable[[], None], *, compacted: bool = False) -> None:
        """Whether it came to that or not, the worker is killed after the step, and starts again."""
        try:
            step()
        except RuntimeError as error:
            assert "failpoint" in str(error)  # noqa: PT017 - whether it raises is drawn
        failpoints._failpoint.disarm()
        self.starts_again(compacted)

    def starts_again(self, compacted: bool) -> None:
        self.all.run(self.owner.kill())
        self.owner.start()
        self.all.run(self.owner.own(compacted=compacted))

    @rule(compacted=st.booleans())
    def a_rebalance_moves_the_partition(self, compacted: bool) -> None:
        self.all.run(self.owner.give_up())
        self.takes_over(compacted)

    @rule(compacted=st.booleans())
    def another_owner_fences_this_one(self, compacted: bool) -> None:
        zombie = self.owner
        self.takes_over(compacted)
        with suppress(ProducerFenced):
            self.all.run(zombie.end_encode())
        self.all.run(zombie.kill())

    def takes_over(self, compacted: bool) -> None:
        self.all.owner = self.other
        if not self.owner.runs:
            self.owner.start()
        self.all.run(self.owner.own(compacted=compacted))

    @rule(share=st.floats(0, 1), compacted=st.booleans())
    def the_other_stands_by(self, share: float, compacted: bool) -> None:
        if not self.other.runs:
            self.other.start()
        self.all.run(self.other.stand_by(share, compacted=compacted))

    @rule()
    def the_other_is_killed(self) -> None:
        self.all.run(self.other.kill())

    @rule(which=st.integers(0, 1), compacted=st.booleans())
    def another_model_is_deployed(self, which: int, compacted: bool) -> None:
        self.owner.model = self.models[which]
        self.starts_again(compacted)

    @rule(noted=st.booleans())
    def a_walk_goes_on(self, noted: bool) -> None:
        self.note_closed()
        self.all.run(self.owner.walk_on(noted=noted))

    @rule(step=st.sampled_from(OF_ENCODES), noted=st.booleans())
    def killed_in_a_walk(self, step: str, noted: bool) -> None:
        failpoints._failpoint.arm(f"{step}=raise")
        self.note_closed()
        self.dies(lambda: self.all.run(self.owner.walk_on(noted=noted)))

    @rule(is_seen=st.booleans())
    def the_embeddings_topic_is_made_anew(self, is_seen: bool) -> None:
        self.all.topics.make_embeddings_anew()
        if is_seen:
            self.all.run(self.owner.look_at_output())

    @rule(user=st.sampled_from(USERS))
    def an_erasure_is_asked(self, user: bytes) -> None:
        self.all.ask_to_erase(user)

    @rule()
    def what_was_asked_is_erased(self) -> None:
        self.all.run(self.owner.erase_asked())

    @rule(step=st.sampled_from(OF_ERASURES), user=st.sampled_from(USERS), compacted=st.booleans())
    def killed_in_an_erasure(self, step: str, user: bytes, compacted: bool) -> None:
        self.all.ask_to_erase(user)
        failpoints._failpoint.arm(f"{step}=raise")
        self.dies(lambda: self.all.run(self.owner.erase_asked()), compacted=compacted)

    @rule(compacted=st.booleans())
    def the_owner_loses_its_disk(self, compacted: bool) -> None:
        self.all.run(self.owner.kill())
        shutil.rmtree(self.owner.path)
        self.starts_again(compacted)

    @rule()
    def the_other_loses_its_disk(self) -> None:
        self.all.run(self.other.kill())
        shutil.rmtree(self.other.path, ignore_errors=True)

    @rule()
    def the_watermark_is_noted(self) -> None:
        self.all.run(self.owner.partition._commit_and_apply("note", []))

    def note_closed(self) -> None:
        """An encode closes all but each user's newest day."""
        for user in USERS:
            self.after_closed[user].append(max(self.all.days(user), default=FIRST_DAY))

    def teardown(self) -> None:
        if not hasattr(self, "all"):
            return
        failpoints._failpoint.disarm()
        try:
            self.all.apply()
            self.all.run(self.owner.look_at_output())
            self.all.run(self.owner.erase_asked())
            self.all.run(self.owner.encode_all())
            while self.owner.partition.publication.walk is not None:
                self.all.run(self.owner.walk_on(noted=False))
            self.all.check_published()
            self.all.check_counts(self.owner)
            self.the_other_stands_by(1.0, compacted=True)
            self.all.check_counts(self.other)
        finally:
            self.all.close()
            shutil.rmtree(self.folder)


class ManyOrders(Orders):
    """Longer histories, and more of them."""


UNHURRIED = [HealthCheck.too_slow, HealthCheck.filter_too_much]
TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=12, stateful_step_count=30, suppress_health_check=UNHURRIED)
TestManyOrders = pytest.mark.slow(pytest.mark.timeout(900)(ManyOrders.TestCase))
TestManyOrders.settings = settings(max_examples=30, stateful_step_count=50, suppress_health_check=UNHURRIED)
