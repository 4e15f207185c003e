import pytest
from aiokafka.errors import KafkaError

from stream.kafka.transactions import last_offset


def test_the_last_offset_of_a_batch_follows_from_its_first() -> None:
    assert last_offset("changelog", 7, 3) == 9


def test_an_offset_that_the_broker_does_not_know_is_not_taken_for_one() -> None:
    """It answers -1 for a batch that it has from an earlier attempt, too long ago to remember where."""
    with pytest.raises(KafkaError, match="does not know where: topic=changelog"):
        last_offset("changelog", -1, 3)


def test_a_batch_that_does_not_stand_behind_the_one_before_is_refused() -> None:
    assert last_offset("changelog", 8, 1, after=7) == 8
    with pytest.raises(KafkaError, match="was it recreated"):
        last_offset("changelog", 0, 9, after=7)
