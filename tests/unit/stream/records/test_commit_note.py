"""What a group's commit says beside the offset."""

import pytest

from stream.records.commit_note import CommitNote


def test_what_is_noted_is_read() -> None:
    note = CommitNote("573a4266-1c14-4c45-b06d-1839a0977f3f", "space")
    assert CommitNote.decode(note.encode()) == note


@pytest.mark.parametrize("text", [None, "", "consumed by hand", "[]", '{"topic_id": 5}', "[" * 100_000])
def test_what_others_wrote_there_says_nothing(text: str | None) -> None:
    assert CommitNote.decode(text) == CommitNote()


def test_a_space_with_an_endless_name_is_not_noted_since_the_broker_would_refuse_the_commit() -> None:
    assert CommitNote.decode(CommitNote("t", "s" * 10_000).encode()) == CommitNote("t")
