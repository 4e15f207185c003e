"""Every command does what it is for with the permissions of deploy/PERMISSIONS.md, and names each that is missing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from state.periods import MS_PER_DAY
from stream.errors import PermissionMissing
from stream.kafka.topics import create_missing, ensure
from stream.settings import Kafka, Model, Settings
from tests.authorized import AuthorizedKafka, Permission
from tests.broker.state_writer import StateWriter
from tests.brokers import fresh_settings, kafka_home
from tests.conftest import NO_KAFKA
from tests.plain import PlainEvent
from tests.security.conftest import Lurm
from tests.worker.conftest import MakeWorker
from tests.workers import (
    FIRST_DAY,
    Traffic,
    bundle_with_kinds,
    check_exact,
    check_published,
    wait_applied,
    worker_settings,
)

PAGE = (Path(__file__).parents[2] / "deploy" / "PERMISSIONS.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
COLUMNS, COMMANDS = ROWS[0][1:], {row[0].strip("`"): row[1:] for row in ROWS[1:]}
# What is typed for each tool; the worker and `lurm erase`, which need each other, come last.
TOOLS = {
    "lurm topics create": "topics create",
    "lurm topics check": "topics check",
    "lurm produce": "produce events.jsonl",
    "lurm items assign --send": "items assign items.jsonl --send",
    "lurm consume": "consume --from-beginning --timeout 1",
    "lurm inspect USER": "inspect ann",
    "lurm inspect --ledger": "inspect --ledger",
    "lurm inspect --ledger --source": "inspect --ledger --source",
    "lurm verify": "verify",
    "lurm export bags": "export bags",
    "lurm export embeddings": "export embeddings",
    "lurm lag": "lag",
}


class Place(NamedTuple):
    """One application on the broker: what its settings are for who logs in, and for who may do everything."""

    kafka: AuthorizedKafka
    settings: Settings
    master: Settings


@pytest.fixture(scope="module")
def authorized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizedKafka]:
    home = kafka_home()
    if home is None:
        pytest.skip(NO_KAFKA)
    kafka = AuthorizedKafka(home, tmp_path_factory.mktemp("authorized"))
    try:
        kafka.broker.start()
        yield kafka
    finally:
        kafka.broker.stop()


@pytest.fixture
def place(authorized: AuthorizedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    bundle_with_kinds().save(tmp_path / "kinds")
    (tmp_path / "events.jsonl").write_text('{"user_id": "ann", "item_id": "item-1", "ts": 1728000000000}\n')
    (tmp_path / "items.jsonl").write_text('{"item_id": "lamp", "attributes": {"kind": "7"}}\n')
    kafka = authorized.settings()
    settings = fresh_settings(kafka.brokers, kafka=kafka, model=Model(bundle=tmp_path / "kinds", device="cpu"))
    return Place(authorized, settings, as_master(authorized, settings))


def as_master(kafka: AuthorizedKafka, settings: Settings) -> Settings:
    return settings.model_copy(update={"kafka": Kafka(brokers=kafka.broker.brokers)})


def permissions(settings: Settings, command: str) -> list[Permission]:
    """What the page says that a command needs, of this application."""
    topics = settings.topics
    names = {
        "events": topics.events,
        "embeddings": topics.embeddings,
        "dead letters": topics.dead_letters,
        "items": topics.items,
        "changelog": settings.changelog_topic,
        "control": settings.control_topic,
        "erasures": settings.erasures_topic,
    }
    things = {column: ("topic", name) for column, name in names.items()}
    things |= {"group": ("group", settings.app.id), "transactional ids": ("transactional id", f"{settings.app.id}-*")}
    cells = zip(COLUMNS, COMMANDS[command], strict=True)
    return [Permission(each, *things[column]) for column, cell in cells for each in re.findall(r"\w+", cell)]


def without(settings: Settings, needed: list[Permission], missing: Permission) -> set[Permission]:
    """All but this one; describing everything, which comes with reading and writing, unless that is what is missing."""
    all_things = [each for command in ("lurm worker", "lurm topics check") for each in permissions(settings, command)]
    described = {Permission("Describe", each.kind, each.name) for each in all_things}
    return {*needed, *described} - {missing}


def test_every_command_of_the_page_is_tried() -> None:
    assert COMMANDS.keys() == TOOLS.keys() | {"lurm worker", "lurm erase USER"}


@pytest.mark.parametrize("command", TOOLS)
def test_a_tool_works_with_the_permissions_of_the_page_and_names_each_that_is_missing(
    command: str, place: Place, lurm: Lurm
) -> None:
    kafka, settings, master = place
    needed, typed = permissions(settings, command), TOOLS[command].split()
    if command != "lurm topics create":
        create_missing(master)
        write_something(master)
    for missing in needed:
        with kafka.granted(without(settings, needed, missing)):
            code, out, err = lurm(settings, *typed)
        if missing.operation == "Create" and missing.name != settings.topics.events:
            continue  # the first time made all the others
        assert code == 1, (missing, out, err)
        assert re.search(rf"{missing.operation}\b.* on {missing.kind} {missing.name}", err), (missing, err)
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1, err
    with kafka.granted(needed):
        code, out, err = lurm(settings, *typed)
    assert code == 0, (out, err)


def write_something(settings: Settings) -> None:
    """Who reads an empty topic asks for no record, and needs no permission."""
    events = [PlainEvent(b"ann", 1, FIRST_DAY * MS_PER_DAY)]
    writer = StateWriter(settings, bundle_with_kinds())
    writer.write_rows(events)
    writer.write_embeddings(events)
    Traffic(settings, seed=90).send_these(events)


@pytest.mark.slow
def test_a_worker_and_an_erasure_need_what_the_page_says_and_no_right_to_make_topics(
    authorized: AuthorizedKafka, tmp_path: Path, bundle: Path, make_worker: MakeWorker, lurm: Lurm
) -> None:
    """Started twice: the first start finds all topics made, the second also a group and a state."""
    kafka = authorized.settings()
    settings = worker_settings_made_by_master(authorized, kafka, tmp_path, bundle)
    master = as_master(authorized, settings)
    traffic = Traffic(master, seed=91)
    with authorized.granted(permissions(settings, "lurm worker")):
        worker = make_worker(settings)
        for _ in range(2):
            worker.ready()
            traffic.send(100)
            wait_applied(master, worker)
            assert worker.terminate() == 0, worker.output()
        check_exact(master, traffic.sent)
        worker.ready()
        check_published(master)
    user = traffic.sent[0].user.decode()
    with authorized.granted({*permissions(settings, "lurm worker"), *permissions(settings, "lurm erase USER")}):
        code, out, err = lurm(settings, "erase", user)
        assert (code, '"ok":true' in out) == (0, True), (out, err)
        assert worker.terminate() == 0
    for missing in ("group", "transactional id"):
        rest = [each for each in permissions(settings, "lurm worker") if each.kind != missing]
        with authorized.granted(rest):
            refused = make_worker(settings).start()
            assert refused.wait() == 1, refused.output()
        assert re.search(rf"the worker ends: .* on {missing} {settings.app.id}", refused.output()), refused.output()
        assert "Traceback" not in refused.output()


def test_a_worker_that_may_not_do_something_to_a_topic_says_what_before_it_reads_anything(
    authorized: AuthorizedKafka, tmp_path: Path, bundle: Path
) -> None:
    settings = worker_settings_made_by_master(authorized, authorized.settings(), tmp_path, bundle)
    needed = permissions(settings, "lurm worker")
    for missing in (each for each in needed if each.kind == "topic"):
        said = f"{missing.operation} on topic {missing.name}"
        with authorized.granted(without(settings, needed, missing)), pytest.raises(PermissionMissing, match=said):
            ensure(settings, 20)


def worker_settings_made_by_master(authorized: AuthorizedKafka, kafka: Kafka, folder: Path, bundle: Path) -> Settings:
    return worker_settings(authorized.broker.brokers, folder, bundle).model_copy(update={"kafka": kafka})
