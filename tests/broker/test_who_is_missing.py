"""`lurm verify` tells who waits for an embedding from whom nobody will ever give one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from state.periods import MS_PER_DAY
from state.record import PartitionRecord, encode_record
from state.rows import RECORD_KEY
from state.walk import Output, Walk
from stream.cli import run
from stream.kafka.topics import create_missing
from stream.settings import Settings
from stream.testing import tiny_bundle
from stream.testing.bundle import FIRST_DAY
from tests.broker.state_writer import StateWriter
from tests.brokers import MakeSettings, environment_of, producer
from tests.plain import PlainEvent

BUNDLE = tiny_bundle()
EVENTS = [PlainEvent(user.encode(), 3, FIRST_DAY * MS_PER_DAY) for user in ("ann", "bob", "zoë")]
Verify = Callable[[Bundle], tuple[int, str, str]]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=1)
    create_missing(made)
    return made


@pytest.fixture
def verify(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verify:
    """Exit code, stdout and stderr of `lurm verify` with a bundle."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LURM_MODEL__DEVICE", "cpu")

    def verify(bundle: Bundle) -> tuple[int, str, str]:
        bundle.save(tmp_path / bundle.model_id)
        monkeypatch.setenv("LURM_MODEL__BUNDLE", str(tmp_path / bundle.model_id))
        code = run(["verify"])
        return code, *capsys.readouterr()

    return verify


def say(settings: Settings, **facts: Any) -> None:
    """Write a partition record."""
    record = PartitionRecord(BUNDLE.codebook.interest_space_id, "day,month", 3, **facts)
    with producer(settings) as client:
        client.send(settings.changelog_topic, encode_record(record), RECORD_KEY, partition=0)


def test_who_is_below_the_watermark_and_behind_the_walk_is_missing_and_all_others_are_pending(
    settings: Settings, verify: Verify
) -> None:
    writer, here = StateWriter(settings, BUNDLE), Output(BUNDLE.model_id, settings.topics.embeddings, "1")
    writer.write_rows(EVENTS)
    assert verify(BUNDLE)[1].startswith("users=3 equal=0 different=0 pending=3 missing=0 "), "nothing is published yet"
    published = {"published": 2, "model_id": BUNDLE.model_id}
    say(settings, **published)
    code, out, err = verify(BUNDLE)
    assert (code, "pending=1 missing=2" in out, "missing" in err, "users=ann,bob" in err) == (1, True, True, True)
    say(settings, published=3, model_id="another", walk=Walk(here, b"b"))
    code, out, err = verify(BUNDLE)
    assert (code, "pending=2 missing=1" in out, "users=ann" in err) == (1, True, True), "the walk has passed one"
    say(settings, published=3, model_id=BUNDLE.model_id, walk=Walk(Output("another", "e", "1"), b"z"))
    assert "pending=3 missing=0" in verify(BUNDLE)[1], "the workers walk to another model"
    writer.write_embeddings(EVENTS[:1])
    say(settings, **published)
    code, out, _ = verify(BUNDLE)
    assert (code, "equal=1 different=0 pending=1 missing=1" in out) == (1, True)
    say(settings, published=0, model_id=BUNDLE.model_id, embeddings_topic="another")
    assert "missing=2" in verify(BUNDLE)[1], "the workers publish elsewhere"


def test_a_model_that_gives_no_numbers_is_named(settings: Settings, verify: Verify) -> None:
    StateWriter(settings, BUNDLE).write_rows(EVENTS)
    weights = {name: (w * np.float32(1e30)).clip(-3e38, 3e38) for name, w in BUNDLE.weights.items()}
    code, out, err = verify(Bundle.build(BUNDLE.config, BUNDLE.codebook, weights, {}, {}))
    assert (code, "not_finite=3" in out, "gives no numbers" in err) == (1, True, True)
