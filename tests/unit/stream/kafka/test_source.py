import pytest

from state.record import PartitionRecord
from stream.errors import ConfigInvalid, SourceLost
from stream.kafka.source import Position, Source, n_lost


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
