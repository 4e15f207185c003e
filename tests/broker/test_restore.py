"""`lurm restore` refuses whatever would bring back another state, each in one line, and replaces nothing then."""

import json
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from state.options import StoreOptions, StoreResources
from state.record import PartitionRecord
from state.snapshot import MANIFEST
from state.store import APPLIED_KEY, BEHIND_S_MAX, BagStore, Changes
from stream.cli import cli
from stream.kafka.topics import create_missing, topic_id
from stream.settings import App, Model, Settings, State
from stream.testing.bundle import tiny_bundle
from tests.brokers import Broker, environment_of, fresh_settings
from tests.conftest import KINDS, NO_KAFKA
from tests.unit.state.test_store import row
from tests.workers import recreate

Spoil = Callable[[Settings, Path], Settings]


@pytest.fixture
def settings(session_brokers: dict[str, Broker], tmp_path: Path) -> Settings:
    """A stopped worker's: a database of one user, counted with the bundle that is named."""
    bundle = tiny_bundle()
    bundle.save(tmp_path / "bundle")
    settings = fresh_settings(
        session_brokers[KINDS[-1]].start().brokers,
        partitions=1,
        state=State(dir=tmp_path / "state"),
        model=Model(bundle=tmp_path / "bundle", device="cpu"),
    )
    create_missing(settings)
    resources = StoreResources(StoreOptions(cache_bytes=32 << 20, memtable_bytes=8 << 20))
    store = BagStore(tmp_path / "state" / settings.app.id / "partition-0", resources)
    space = bundle.codebook.interest_space_id
    store.apply(Changes([row(b"ann", 10, 1)], PartitionRecord(space, "day,month", 1), 1))
    store.close()
    return settings


def lurm(settings: Settings, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(each) for each in arguments], env=environment_of(settings))
    return (2, str(done.exception)) if done.exception else (0, done.output)


def another_application(settings: Settings, out: Path) -> Settings:
    del out
    other = settings.model_copy(update={"app": App(id=f"{settings.app.id}-other")})
    create_missing(other)
    return other


def another_partition(settings: Settings, out: Path) -> Settings:
    (out / "partition-0").rename(out / "partition-1")
    return settings


def a_recreated_changelog(settings: Settings, out: Path) -> Settings:
    del out
    recreate(settings, settings.changelog_topic)
    return settings


def another_codebook(settings: Settings, out: Path) -> Settings:
    tiny_bundle(space_seed=99).save(out.parent / "other")
    return settings.model_copy(update={"model": Model(bundle=out.parent / "other", device="cpu")})


def other_scales(settings: Settings, out: Path) -> Settings:
    tiny_bundle(scales="day,week").save(out.parent / "other")
    return settings.model_copy(update={"model": Model(bundle=out.parent / "other", device="cpu")})


def too_old(settings: Settings, out: Path) -> Settings:
    move(out, -BEHIND_S_MAX)
    return settings


def from_the_future(settings: Settings, out: Path) -> Settings:
    move(out, 40 * 86_400)
    return settings


def move(out: Path, by_s: float) -> None:
    """Date a snapshot otherwise, wherever it says so."""
    manifest = json.loads((out / "partition-0" / MANIFEST).read_text())
    manifest["applied_at_s"] += by_s
    applied = struct.pack("<qd", manifest["changelog_offset"], manifest["applied_at_s"])
    manifest["meta"][APPLIED_KEY.decode()] = applied.hex()
    (out / "partition-0" / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_application, "the snapshot is another's"),
        (another_partition, "the snapshot is another's"),
        # The embedded broker gives its topics no ids.
        pytest.param(
            a_recreated_changelog,
            "the changelog was recreated since the snapshot",
            marks=pytest.mark.skipif("kafka" not in KINDS, reason=NO_KAFKA),
        ),
        (another_codebook, "another codebook or other scales"),
        (other_scales, "another codebook or other scales"),
        (too_old, "older than the changelog keeps deletions"),
        (from_the_future, "dated in the future by a wrong clock"),
    ],
)
def test_a_snapshot_that_does_not_belong_here_is_refused(
    settings: Settings, tmp_path: Path, spoil: Spoil, said: str
) -> None:
    out = tmp_path / "out"
    assert lurm(settings, "snapshot", "--out", out)[0] == 0
    spoilt = spoil(settings, out)
    before = contents(tmp_path / "state")
    code, message = lurm(spoilt, "restore", "--from", out, "--replace")
    assert (code, said in message, message.count("\n")) == (2, True, 0), message
    assert contents(tmp_path / "state") == before


def test_a_snapshot_that_belongs_here_is_restored(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lurm(settings, "snapshot", "--out", out)[0] == 0
    code, message = lurm(settings, "restore", "--from", out, "--replace")
    assert (code, "partition 0: rows=1 changelog_offset=1" in message) == (0, True), message


@pytest.mark.skipif("kafka" not in KINDS, reason=NO_KAFKA)
def test_a_state_of_another_changelog_gives_no_snapshot_and_gives_way_to_one(
    settings: Settings, tmp_path: Path
) -> None:
    """The embedded broker gives its topics no ids."""
    assert settings.state.dir is not None
    path, resources = settings.state.dir / settings.app.id / "partition-0", StoreResources(StoreOptions())
    with closing(BagStore(path, resources)) as store:
        record, store.changelog_id = store.record, topic_id(settings, settings.changelog_topic) or ""
        assert record is not None
        store.apply(Changes([], record, 2))
    assert lurm(settings, "snapshot", "--out", tmp_path / "out")[0] == 0
    with closing(BagStore(path, resources)) as store:
        store.changelog_id = "another"
        store.apply(Changes([], record, 99))
    code, message = lurm(settings, "snapshot", "--out", tmp_path / "no")
    assert (code, "the changelog is not the one that was applied here" in message) == (2, True), message
    code, message = lurm(settings, "restore", "--from", tmp_path / "out")
    assert (code, "partition 0: rows=1 changelog_offset=2" in message) == (0, True), message
    with closing(BagStore(path, resources)) as store:
        assert store.changelog_id == topic_id(settings, settings.changelog_topic)


def contents(folder: Path) -> dict[str, bytes]:
    """The data files that are there: opening a database writes a new log beside them."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.sst"))}
