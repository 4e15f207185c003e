"""The tools read and write what the documentation promises, from the topics alone, beside no worker."""

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lurm_model.bundle import Bundle
from lurm_model.files.datasets import synthetic
from lurm_model.training.train import TrainOptions, train
from state.periods import MS_PER_DAY
from state.record import Ledger, PartitionRecord, encode_record
from state.rows import RECORD_KEY
from stream.cli import run
from stream.commands.verify import in_share
from stream.kafka.topics import create_missing, end_offsets
from stream.settings import Settings
from tests.broker.state_writer import StateWriter
from tests.brokers import MakeSettings, environment_of, producer, read_records
from tests.plain import PlainEvent, bags

Run = Callable[..., tuple[int, str, str]]
JAN, MAR, APR = 11_333, 11_390, 11_420  # 2001-01-11, 2001-03-09, 2001-04-08


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(synthetic(n_users=120, n_items=120, seed=5)[0], TrainOptions(n_interests=12, epochs=0, device="cpu"))


@pytest.fixture(scope="module")
def bundle_dir(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    bundle.save(folder)
    return folder


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(partitions=2)
    create_missing(made)
    return made


@pytest.fixture
def writer(settings: Settings, bundle: Bundle) -> StateWriter:
    return StateWriter(settings, bundle)


@pytest.fixture
def lurm(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: (exit code, stdout, stderr)."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LURM_MODEL__DEVICE", "cpu")

    def call(*arguments: object, **variables: object) -> tuple[int, str, str]:
        with monkeypatch.context() as context:
            for name, value in variables.items():
                context.setenv(name, str(value))
            capsys.readouterr()
            code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _events() -> list[PlainEvent]:
    def event(user: str, interest: int, day: int, weight: int = 1) -> PlainEvent:
        return PlainEvent(user.encode(), interest, day * MS_PER_DAY + 1000, weight)

    return [
        event("ann", 3, JAN),
        event("ann", 3, JAN),
        event("Zoë", 1, MAR),
        event("ann", 5, MAR, 2),
        event("ann", 3, APR),
        event("ann", 4, APR),
        event("ann", 4, JAN + 1),
    ]


def _json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_topics_are_created_and_checked(make_settings: MakeSettings, lurm: Run) -> None:
    fresh = environment_of(make_settings(partitions=2))
    code, out, err = lurm("topics", "check", **fresh)
    assert (code, out.count("no such topic"), err.count("\n")) == (2, 7, 1), (out, fresh)
    code, out, _ = lurm("topics", "create", **fresh)
    assert (code, out.count("created ")) == (0, 7)
    assert lurm("topics", "check", **fresh)[0] == 0
    code, out, err = lurm("topics", "check", **fresh | {"LURM_TOPICS__PARTITIONS": "5"})
    assert (code, out.count("wanted 5 partitions"), err.count("\n")) == (2, 6, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_produce_sends_lines_unchanged_where_kafkas_clients_would(
    suffix: str, settings: Settings, lurm: Run, tmp_path: Path
) -> None:
    lines = [b'{"user_id": "user-%d", "item_id":"i", "ts": %d}' % (n % 50, n) for n in range(3000)]
    lines += [b"not json", b'{"item_id": "i"}', '{"user_id":"Zoë","item_id":"é","ts":1}'.encode()]
    file = tmp_path / f"events{suffix}"
    content = b"\n".join(lines) + b"\n\n"
    file.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    code, out, err = lurm("produce", file)
    assert code == 0, err
    assert out.startswith("sent 3003 events in ")
    assert err.startswith("events=3001 from 1970-01-01 00:00:00 to 1970-01-01 00:00:02 UTC\n")
    assert err.endswith("\n2 of them have no readable user_id: the worker will reject those\n")
    records = read_records(settings, settings.topics.events, [0, 1])
    assert sorted(record.value for record in records) == sorted(lines)
    with producer(settings) as client:
        sent = {
            key: client.send(settings.topics.events, b"{}", key).get(10).partition
            for key in {r.key for r in records}
            if key
        }
    for record in records:
        if record.key is not None:
            assert json.loads(record.value)["user_id"].encode() == record.key
            assert record.partition == sent[record.key]
    own = [json.loads(record.value)["ts"] for record in records if record.key == b"user-7"]
    assert own == sorted(own), "a user's events keep their order"


def test_produce_makes_json_of_other_files_and_stops_at_max(settings: Settings, lurm: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("user_id,item_id,ts\nann,i1,1000000000003\nbob,i2,1000000000001\nann,i3,1000000000002\n")
    assert lurm("produce", file, "--max", 2, "--rate", 1000)[0] == 0
    records = read_records(settings, settings.topics.events, [0, 1])
    assert sorted((record.key, json.loads(record.value)["item_id"]) for record in records) == [
        (b"ann", "i3"),
        (b"bob", "i2"),
    ]


def test_produce_keeps_to_the_rate(lurm: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"user_id":"ann"}\n' * 100)
    code, out, _ = lurm("produce", file, "--rate", 100)
    seconds = float(out.split(" in ")[1].split(" s")[0])
    assert code == 0
    assert 0.9 <= seconds < 3


def test_produce_refuses_a_missing_topic_and_an_empty_file(lurm: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("{}\n")
    code, _, err = lurm("produce", file, LURM_TOPICS__EVENTS="nowhere")
    assert (code, "events topic does not exist: topic=nowhere" in err) == (2, True)
    file.write_text("\n")
    assert lurm("produce", file)[0] == 2


def test_an_event_that_the_broker_does_not_take_is_reported(
    make_kafka_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    settings = make_kafka_settings()
    create_missing(settings)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "events.jsonl"
    file.write_text("x" * 2_000_000 + "\n")
    assert run(["produce", str(file)]) == 1
    assert "an event is larger than the broker takes" in capsys.readouterr().err


def test_consume_prints_what_was_published(writer: StateWriter, lurm: Run, bundle: Bundle) -> None:
    writer.write_embeddings(_events())
    code, out, _ = lurm("consume", "--from-beginning", "--max", 2, "--json")
    found = {entry["user_id"]: entry for entry in _json_lines(out)}
    assert code == 0
    assert found.keys() == {"ann", "Zoë"}
    assert (found["ann"]["seq"], found["ann"]["model_id"]) == (6, bundle.model_id)
    assert found["ann"]["shape"] == [bundle.config.n_vectors, bundle.config.d_anchor]
    code, out, _ = lurm("consume", "--from-beginning", "--timeout", 0.5)
    assert code == 0
    assert sorted(line.split()[:2] for line in out.splitlines()) == [["seq=2", "user=Zoë"], ["seq=6", "user=ann"]]
    code, out, err = lurm("consume", "--from-beginning", "--timeout", 0.5, "--max", 3)
    assert (code, len(out.splitlines()), "found=2 wanted=3" in err) == (1, 2, True)


def test_no_command_prints_the_control_characters_of_an_id(writer: StateWriter, lurm: Run, bundle_dir: Path) -> None:
    user = "\x1b[2J\x9b1m\nerror: forged\u2028\u202e\x7f"
    events = [PlainEvent(user.encode(), 3, JAN * MS_PER_DAY)]
    writer.write_rows(events)
    writer.write_embeddings(events, scale=2)
    said = [
        lurm("consume", "--from-beginning", "--max", 1),
        lurm("consume", "--from-beginning", "--max", 1, "--json"),
        lurm("inspect", user),
        lurm("inspect", user, "--json"),
        lurm("inspect", f"{user}?"),
        lurm("export", "embeddings"),
        lurm("export", "bags"),
        lurm("verify", LURM_MODEL__BUNDLE=bundle_dir),
    ]
    assert [code for code, _, _ in said] == [0, 0, 0, 0, 1, 0, 0, 1]
    for _, out, err in said:
        assert all(line.isprintable() for line in (out + err).split("\n"))
        assert not any(line.startswith("error: forged") for line in (out + err).split("\n"))
    assert json.loads(said[1][1])["user_id"] == user
    assert json.loads(said[5][1])["user_id"] == user


@pytest.mark.parametrize("rolled_up", [False, True])
def test_exported_bags_are_the_plain_count_rolled_up_or_not(
    rolled_up: bool, writer: StateWriter, lurm: Run, bundle: Bundle, tmp_path: Path
) -> None:
    writer.write_rows(_events(), rolled_up=rolled_up)
    code, out, err = lurm("export", "bags")
    assert code == 0, err
    lines = _json_lines(out)
    plain = bags(_events(), bundle.scales)
    expected = {
        (user.decode(), scale, period): {str(k): v for k, v in counts.items()}
        for (user, scale, period), counts in plain.items()
    }
    assert {(line["user_id"], line["scale"], line["period"]): line["interests"] for line in lines} == expected
    assert [(line["user_id"], line["scale"], line["period"], line["seq"]) for line in lines] == [
        ("Zoë", "day", "2001-03-09", 2),
        ("Zoë", "month", "2001-03", 2),
        ("ann", "day", "2001-03-09", 3),
        ("ann", "day", "2001-04-08", 5),
        ("ann", "month", "2001-01", 6),
        ("ann", "month", "2001-03", 3),
        ("ann", "month", "2001-04", 5),
    ]
    file = tmp_path / "bags.jsonl"
    assert lurm("export", "bags", "--out", file)[0] == 0
    assert file.read_text() == out
    assert list(tmp_path.iterdir()) == [file]


def test_exported_items_need_no_broker(lurm: Run, bundle: Bundle, bundle_dir: Path) -> None:
    code, out, _ = lurm("export", "items", LURM_MODEL__BUNDLE=bundle_dir, LURM_KAFKA__BROKERS="127.0.0.1:1")
    assert code == 0
    assert {line["item_id"]: line["interest"] for line in _json_lines(out)} == bundle.codebook.interest_of


def test_exported_embeddings_are_the_newest(writer: StateWriter, lurm: Run, bundle: Bundle, settings: Settings) -> None:
    writer.write_embeddings(_events()[:4])
    writer.write_embeddings(_events())
    with producer(settings) as client:
        client.send(settings.topics.embeddings, None, "Zoë".encode(), partition=writer.partition_of("Zoë".encode()))
    (line,) = _json_lines(lurm("export", "embeddings")[1])
    assert list(line) == ["user_id", "seq", "model_id", "shape", "vectors"]
    assert (line["user_id"], line["seq"], line["model_id"]) == ("ann", 6, bundle.model_id)
    assert list(np.array(line["vectors"]).shape) == line["shape"]


def test_a_failed_export_leaves_the_old_file(lurm: Run, tmp_path: Path) -> None:
    file = tmp_path / "bags.jsonl"
    file.write_text("old")
    code, _, err = lurm("export", "bags", "--out", file, LURM_APP__ID="nobody")
    assert (code, "no such topic: topic=nobody-bags-changelog" in err) == (2, True)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_inspect_shows_bags_and_whether_the_embedding_is_pending(
    writer: StateWriter, lurm: Run, bundle: Bundle, bundle_dir: Path
) -> None:
    writer.write_rows(_events())
    code, out, _ = lurm("inspect", "ann", "--json")
    found = json.loads(out)
    assert (code, found["seq"], found["embedding"]) == (0, 6, None)
    assert found["partition"] == writer.partition_of(b"ann")
    assert found["event_time_ms"] == APR * MS_PER_DAY + 1000
    assert found["periods"][-1] == {
        "user_id": "ann", "scale": "month", "period": "2001-04", "seq": 5, "interests": {"3": 1, "4": 1}
    }  # fmt: skip
    writer.write_embeddings(_events()[:4])
    assert json.loads(lurm("inspect", "ann", "--json")[1])["embedding"]["pending"] is True
    writer.write_embeddings(_events())
    code, out, _ = lurm("inspect", "ann", LURM_MODEL__BUNDLE=bundle_dir)
    assert code == 0
    assert "month   2001-01    seq=6  3:2 4:1" in out
    assert f"seq=6 model={bundle.model_id}" in out
    assert "(up to date)" in out
    first = next(item for item, interest in bundle.codebook.interest_of.items() if interest == 3)
    assert f"interest 3: {first}" in out


def test_inspecting_an_unknown_user_fails(writer: StateWriter, lurm: Run) -> None:
    writer.write_rows(_events())
    code, out, err = lurm("inspect", "an")
    assert (code, out, "nothing is known of the user: user=an" in err) == (1, "", True)


def test_the_ledger_is_shown_per_partition_and_fails_when_events_are_missing(
    writer: StateWriter, settings: Settings, lurm: Run
) -> None:
    writer.write_rows(_events(), rejected=2)
    code, out, _ = lurm("inspect", "--ledger", "--json")
    found = json.loads(out)
    assert code == 0
    n_partitions = len({writer.partition_of(event.user) for event in _events()})
    assert found["total"] == {
        "received": 7 + 2 * n_partitions, "applied": 7, "skipped": 0, "rejected": 2 * n_partitions, "balanced": True
    }  # fmt: skip
    broken = PartitionRecord("space", "day,month", 9, ledger=Ledger(9, 7, 0, 1))
    with producer(settings) as client:
        client.send(settings.changelog_topic, encode_record(broken), RECORD_KEY, partition=1)
    code, out, err = lurm("inspect", "--ledger")
    assert (code, "balanced=False faults=unbalanced" in out) == (1, True)
    assert "partition=1 faults=unbalanced;" in err


def _ledger_beside_the_source(settings: Settings, lurm: Run, ledger: Ledger, next_offset: int) -> tuple[int, str]:
    """Partition 0 is said to have this ledger; the exit code of the check, and the partition's faults."""
    record = PartitionRecord("space", "day,month", next_offset, ledger=ledger)
    with producer(settings) as client:
        client.send(settings.changelog_topic, encode_record(record), RECORD_KEY, partition=0)
    code, out, _ = lurm("inspect", "--ledger", "--source", "--json")
    return code, ",".join(json.loads(out)["partitions"][0]["faults"])


def test_a_ledger_beside_its_source_shows_what_was_lost_or_counted_twice(settings: Settings, lurm: Run) -> None:
    with producer(settings, f"{settings.app.id}-source") as client:
        # Markers of transactions take offsets and are no records.
        for n in (4, 0, 3):
            client.begin_transaction()
            for _ in range(n):
                client.send(settings.topics.events, b"{}", b"ann", partition=0)
            client.commit_transaction()
    end = end_offsets(settings, settings.topics.events)[0]
    assert end > 7
    check = partial(_ledger_beside_the_source, settings, lurm)
    assert check(Ledger(7, 6, 0, 1), end) == (0, "")
    assert check(Ledger(4, 4, 0, 0), 4) == (0, "")
    assert check(Ledger(6, 6, 0, 0), end) == (1, "differs_from_source")
    assert check(Ledger(8, 7, 0, 1), end) == (1, "differs_from_source")
    assert check(Ledger(7, 7, 0, 1), end) == (1, "unbalanced")
    assert check(Ledger(5, 5, 0, 0), 4) == (1, "more_received_than_offsets,differs_from_source")
    assert check(Ledger(7, 7, 0, 0), end + 1) == (1, "ahead_of_source")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_verify_accepts_what_the_rows_say_and_counts_the_rest_as_pending(
    dtype: str, writer: StateWriter, lurm: Run, bundle_dir: Path
) -> None:
    writer.write_rows(_events(), rolled_up=True)
    writer.write_embeddings(_events()[:4], dtype=dtype)
    code, out, err = lurm("verify", LURM_MODEL__BUNDLE=bundle_dir)
    assert (code, err) == (0, "")
    assert out.startswith("users=2 equal=1 different=0 pending=1 ")
    writer.write_embeddings(_events(), dtype=dtype)
    assert lurm("verify", LURM_MODEL__BUNDLE=bundle_dir)[1].startswith("users=2 equal=2 different=0 pending=0 ")
    assert lurm("verify", "--sample", 1, LURM_MODEL__BUNDLE=bundle_dir)[1].startswith("users=1 equal=1 ")


def test_verify_finds_a_difference(writer: StateWriter, lurm: Run, bundle_dir: Path) -> None:
    writer.write_rows(_events())
    writer.write_embeddings(_events(), scale=1.01)
    code, out, err = lurm("verify", LURM_MODEL__BUNDLE=bundle_dir)
    assert (code, "different=2" in out, "users=Zoë,ann" in err) == (1, True, True)
    assert lurm("verify", "--tolerance", 0.1, LURM_MODEL__BUNDLE=bundle_dir)[0] == 0


def test_verify_finds_rows_that_were_lost(writer: StateWriter, lurm: Run, bundle_dir: Path) -> None:
    everybody = [*_events(), PlainEvent(b"eve", 1, JAN * MS_PER_DAY)]
    writer.write_rows(_events()[:4])
    writer.write_embeddings(everybody)
    code, out, err = lurm("verify", LURM_MODEL__BUNDLE=bundle_dir)
    assert (code, "equal=1 different=2 " in out) == (1, True)
    assert "users=eve,ann" in err


def test_verify_of_a_share_looks_at_users_by_their_hash_and_at_nobody_else(
    writer: StateWriter, lurm: Run, bundle_dir: Path
) -> None:
    everybody, lost = (
        [PlainEvent(b"%s-%d" % (name, k), 1, JAN * MS_PER_DAY) for k in range(200)] for name in (b"user", b"lost")
    )
    writer.write_rows(everybody)
    writer.write_embeddings([*everybody, *lost])
    for seed in (0, 1):
        n, n_lost = (sum(in_share(event.user, 0.2, seed) for event in some) for some in (everybody, lost))
        code, out, _ = lurm("verify", "--share", 0.2, "--seed", seed, LURM_MODEL__BUNDLE=bundle_dir)
        assert (code, out.startswith(f"users={n} equal={n} different={n_lost} ")) == (1, True), out
        assert 20 < n < 60


def test_verify_refuses_a_bundle_of_another_interest_space(writer: StateWriter, lurm: Run, tmp_path: Path) -> None:
    writer.write_rows(_events())
    other = train(synthetic(n_users=120, n_items=120, seed=6)[0], TrainOptions(n_interests=12, epochs=0, device="cpu"))
    other.save(tmp_path / "other")
    code, _, err = lurm("verify", LURM_MODEL__BUNDLE=tmp_path / "other")
    assert (code, "another codebook" in err) == (2, True)
