"""Erasures while everything breaks: users to ask for, and from which event on an erased user counts again."""

import random
from collections.abc import Mapping
from itertools import chain
from typing import Final, NamedTuple

from stream.errors import LurmError
from stream.operations.erasure_request import request
from stream.operations.replay import read_topic
from stream.records.erasure import Answer, Marker, decode
from stream.settings import Settings
from stream.soak.traffic import N_USERS, POISONED_USER


class Erasures(NamedTuple):
    """What the control topic says: per partition and user the source offset from which events count, and who waits."""

    ends: Mapping[tuple[int, bytes], int]
    n_unanswered: int


# Nobody whose poison must all be found among the dead letters.
_USERS: Final = [user for user in (f"user-{number}" for number in range(N_USERS)) if user != POISONED_USER]


def ask(settings: Settings, pick: random.Random) -> bool:
    """Ask for the erasure of somebody; whether all markers were written."""
    try:
        request(settings, [pick.choice(_USERS)])
    except LurmError:
        # The broker was only just started again; what was written of the markers is answered all the same.
        return False
    return True


def erasures(settings: Settings) -> Erasures:
    """Read the control topic."""
    markers: dict[tuple[int, str], Marker] = {}
    answers: dict[tuple[int, str], Answer] = {}
    for record in chain.from_iterable(read_topic(settings, settings.control_topic)):
        said = decode(record.value)
        if isinstance(said, Marker):
            markers[record.partition, said.id] = said
        elif isinstance(said, Answer):
            answers[record.partition, said.id] = said
    ends: dict[tuple[int, bytes], int] = {}
    for (partition, number), answer in answers.items():
        key = partition, markers[partition, number].user.encode()
        ends[key] = max(answer.erased_below, ends.get(key, 0))
    return Erasures(ends, len(markers.keys() - answers.keys()))
