import pytest
from msgspec.structs import replace

from state.record import PartitionRecord
from state.rows import seq_of
from stream.errors import ConfigInvalid, SourceLost
from stream.kafka.source import Position, Source, n_lost, n_replaced


def record(source_id: str = "a", epoch: int = 1) -> PartitionRecord:
    return PartitionRecord("space", "day,month", 70, epoch, source_id=source_id)


@pytest.mark.parametrize("known", ["", "a"])
@pytest.mark.parametrize("now", ["", "a"])
def test_the_same_or_an_unknown_topic_goes_on_and_its_id_is_kept(known: str, now: str) -> None:
    after = Source("events", now, 1).continued(record(known), 0)
    assert after == record(known or now)


def test_another_topic_is_refused_and_a_higher_epoch_begins_it() -> None:
    with pytest.raises(SourceLost, match=r"was it recreated\?.*set LURM_TOPICS__EPOCH=2"):
        Source("events", "b", 1).continued(record(), 0)
    after = Source("events", "b", 2).continued(record(), 0)
    assert (after.epoch, after.source_id, after.next_offset) == (2, "b", 0)
    assert Source("events", "", 5).continued(record(), 0).next_offset == 0, "a broker without ids has epochs too"


@pytest.mark.parametrize(("epoch", "message"), [(0, "set LURM_TOPICS__EPOCH=1"), (2, "would count twice")])
def test_an_epoch_that_does_not_fit_is_misuse(epoch: int, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        Source("events", "a", epoch).continued(record(), 0)


def test_after_offsets_beyond_two_to_the_forty_the_next_epoch_is_the_first_in_which_seq_grows() -> None:
    far = replace(record(), next_offset=(3 << 40) + 5)
    with pytest.raises(SourceLost, match="set LURM_TOPICS__EPOCH=5"):
        Source("events", "b", 1).continued(far, 0)
    with pytest.raises(ConfigInvalid, match=r"the epoch is too low for seq to grow.*set LURM_TOPICS__EPOCH=5"):
        Source("events", "b", 2).continued(far, 0)
    after = Source("events", "b", 5).continued(far, 0)
    assert seq_of(after.epoch, after.next_offset) > seq_of(far.epoch, far.next_offset)


@pytest.mark.parametrize(("kept", "next_offset"), [(60, 60), (70, 70), (90, 70)])
def test_a_higher_epoch_on_the_same_topic_goes_on_with_what_it_has_not_applied(kept: int, next_offset: int) -> None:
    after = Source("events", "a", 2).continued(record(), 0, kept)
    assert (after.epoch, after.source_id, after.next_offset) == (2, "a", next_offset)


def test_events_that_another_leader_lacks_are_never_skipped_unless_loss_is_accepted() -> None:
    at = Position("events", 0, wanted=70, first=0, end=90)
    assert [n_replaced(at, 0, 3, end, accept_loss=False) for end in (None, 70, 90)] == [0, 0, 0]
    with pytest.raises(SourceLost, match=r"has lost applied events.*applied=70 kept=60 leader_epoch=3"):
        n_replaced(at, 0, 3, 60, accept_loss=False)
    assert n_replaced(at, 0, 3, 60, accept_loss=True) == 10


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (Position("events", 0, wanted=70, first=0, end=69), "shorter than what was applied.*LURM_TOPICS__EPOCH=4"),
        (Position("events", 0, wanted=0, first=0, end=90, committed=70), "the changelog is behind the group's offset"),
        (Position("events", 0, 75, 75, 90, committed=70, begun=False), "the changelog is behind the group's offset"),
        (Position("events", 0, wanted=0, first=1, end=90), "retention deleted unread events"),
        (Position("events", 0, wanted=70, first=71, end=90), "retention deleted unread events"),
    ],
)
def test_what_contradicts_the_state_is_never_skipped(at: Position, message: str) -> None:
    with pytest.raises(SourceLost, match=message):
        n_lost(at, 3, accept_loss=False)


def test_accepted_loss_is_counted_and_a_first_start_loses_nothing() -> None:
    assert n_lost(Position("events", 0, wanted=70, first=75, end=90), 0, accept_loss=True) == 5
    assert n_lost(Position("events", 0, wanted=75, first=76, end=90, begun=False), 0, accept_loss=False) == 0
    assert n_lost(Position("events", 0, wanted=90, first=0, end=90, committed=90), 0, accept_loss=False) == 0
