"""Too little, too few, all alike: a command works or says in one line what to do."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from click import Command
from click.testing import CliRunner, Result

from lurm_model.bundle import Bundle
from lurm_model.evaluation.baselines import raw_bag, truncated_svd
from lurm_model.files.datasets import load_events
from lurm_model.interests.items import embed_items
from stream.commands.model import evaluate, train
from stream.errors import ConfigInvalid
from stream.settings import load

DAY_MS = 86_400_000
T = 1_600_000_000_000
Row = tuple[str, str, int]


def write(path: Path, rows: Iterable[Row]) -> Path:
    events = (dict(zip(("user_id", "item_id", "ts"), row, strict=True)) for row in rows)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def run(command: Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], obj=load(None))


NOTHING: list[Row] = []
ONE_EVENT = [("u", "i", T)]
ONE_USER = [("u", f"i{n}", T + n * DAY_MS) for n in range(120)]
ONE_ITEM = [(f"u{n % 120}", "i", T + n * DAY_MS) for n in range(360)]
ONE_EVENT_EACH = [(f"u{n}", f"i{n % 110}", T + n * DAY_MS) for n in range(150)]
ONE_OF_TWO_EVENTS = [*ONE_EVENT_EACH, ("u0", "i0", T)]
FOUR_EACH = [(f"u{n // 4}", f"i{n % 110}", T + n % 4 * DAY_MS) for n in range(480)]
ALL_AT_ONCE = [(f"u{n % 120}", f"i{n % 113}", T) for n in range(1200)]
THREE_OF_FIFTY_YEARS = [("a", "i", T - 40 * 365 * DAY_MS), ("b", "j", T), ("c", "k", T + 10 * 365 * DAY_MS)]

FEW = r"too little to learn from, need 100 users and 100 items: users={} items={}"
ALONE = r"too little to learn from, need users with two events, take in a longer time: users={} with_two_events={}"
UNASKED = r"too few users to ask about, need 6 with 5 events .* take in a longer time: users={} with_enough={}"


@pytest.mark.parametrize(
    ("command", "rows", "reason"),
    [
        (train, NOTHING, "no events: file="),
        (train, ONE_EVENT, FEW.format(1, 1)),
        (train, ONE_USER, FEW.format(1, 120)),
        (train, ONE_ITEM, FEW.format(120, 1)),
        (train, THREE_OF_FIFTY_YEARS, FEW.format(3, 3)),
        (train, ONE_EVENT_EACH, ALONE.format(150, 0)),
        (train, ONE_OF_TWO_EVENTS, ALONE.format(150, 1)),
        (evaluate, NOTHING, "no events: file="),
        (evaluate, ONE_EVENT, UNASKED.format(1, 0)),
        (evaluate, ONE_USER, UNASKED.format(1, 1)),
        (evaluate, ONE_ITEM, UNASKED.format(120, 0)),
        (evaluate, THREE_OF_FIFTY_YEARS, UNASKED.format(3, 0)),
        (evaluate, ONE_EVENT_EACH, UNASKED.format(150, 0)),
        (evaluate, FOUR_EACH, UNASKED.format(120, 0)),
        (evaluate, ALL_AT_ONCE, UNASKED.format(120, 0)),
    ],
)
def test_too_little_is_refused_with_what_is_needed(
    command: Command, rows: list[Row], reason: str, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "bundle") if command is train else ()
    result = run(command, "--events", write(tmp_path / "e.jsonl", rows), *out)
    assert isinstance(result.exception, ConfigInvalid), result.output
    with pytest.raises(ConfigInvalid, match=reason):
        raise result.exception
    assert not (tmp_path / "bundle").exists()


def test_events_of_one_instant_and_more_interests_than_items_train(tmp_path: Path) -> None:
    path, out = write(tmp_path / "e.jsonl", ALL_AT_ONCE), tmp_path / "bundle"
    assert run(train, "--events", path, "--out", out, "--interests", 100_000, "--epochs", 1).exit_code == 0
    bundle = Bundle.load(out)
    assert bundle.codebook.n_clusters <= 113
    assert all(np.isfinite(array).all() for array in bundle.weights.values())
    assert all(np.isfinite(values).all() for values in bundle.manifest["metrics"].values())


def test_one_item_has_a_vector_and_a_bag_of_it_a_coordinate(tmp_path: Path) -> None:
    events = load_events([write(tmp_path / "e.jsonl", ONE_ITEM)])
    np.testing.assert_allclose(np.linalg.norm(embed_items(events, 8, seed=0).vectors), 1, rtol=1e-5)
    assert truncated_svd(raw_bag(events, events.item, 1), 64, seed=0).shape == (120, 1)
