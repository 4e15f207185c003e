"""The harness that adopters test with: the worker's own code, exact under whatever a test makes fail."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lurm_model.inference.encoder import Encoder
from state.history import resolve
from state.periods import MS_PER_DAY, parse_scales
from stream.operations.comparison import relative_error
from stream.settings import App, Settings, State, Topics
from stream.testing import Failure, Harness, TransactionFailed, tiny_bundle
from stream.testing.bundle import FIRST_DAY, N_INTERESTS
from tests.plain import PlainEvent
from tests.plain import bags as plain_bags

README = Path(__file__).parents[2] / "README.md"
MODELS = [tiny_bundle(seed) for seed in range(2)]
ENCODERS = [Encoder(model, "cpu") for model in MODELS]
USERS = [f"user-{i}" for i in range(4)]
TOLERANCE = 1e-5


def event(user: str, interest: int, day: int) -> dict[str, Any]:
    return {"user_id": user, "item_id": f"item-{interest}", "ts": (FIRST_DAY + day) * MS_PER_DAY}


def test_the_readme_s_example_holds() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "stream.testing" in block)
    exec(compile(example, "example", "exec"), {})


def test_what_is_no_event_goes_to_the_dead_letters_with_its_reason() -> None:
    with Harness(MODELS[0]) as harness:
        harness.append(b"ann", b"{")
        harness.apply()
        assert [dict(letter.headers)["__lurm.errors.reason"] for letter in harness.dead_letters] == [b"not_json"]
        assert harness.ledger.balanced
        harness.encode()
        assert harness.embedding("ann") is None


def test_state_stays_in_the_folder_that_the_settings_name(tmp_path: Path) -> None:
    given = Settings(app=App(id="mine"), state=State(dir=tmp_path), topics=Topics(partitions=1))
    with Harness(MODELS[0], given) as harness:
        harness.send(event("ann", 1, 0))
    assert (tmp_path / "mine" / "partition-0").is_dir()


events = st.builds(event, st.sampled_from(USERS), st.integers(0, N_INTERESTS - 1), st.integers(0, 120))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(events, min_size=1, max_size=6)),
        st.tuples(st.just("encode"), st.none()),
        st.tuples(st.just("fail"), st.sampled_from(Failure)),
        st.tuples(st.just("restart"), st.tuples(st.integers(0, 1), st.booleans())),
    ),
    max_size=14,
)


@settings(max_examples=40)
@given(steps)
def test_whatever_fails_in_any_order_every_event_counts_once_and_everybody_is_published(steps: list[Any]) -> None:
    """Transactions that are aborted, or committed unheard; restarts, another model, a lost disk."""
    sent: list[PlainEvent] = []
    model = 0
    given = Settings(topics=Topics(partitions=2))
    with Harness(MODELS[0], given) as harness:
        for name, detail in [*steps, ("restart", (model, False)), ("encode", None)]:
            try:
                if name == "send":
                    sent += [plain(each) for each in detail]
                    harness.send(*detail)
                elif name == "encode":
                    harness.encode()
                elif name == "fail":
                    harness.topics.failure = detail
                else:
                    model, lose_disk = detail
                    harness.topics.failure = None
                    harness.restart(MODELS[model], lose_disk=lose_disk)
            except TransactionFailed:
                harness.restart()
        assert_exact(harness, sent, model)


def plain(sent: dict[str, Any]) -> PlainEvent:
    return PlainEvent(sent["user_id"].encode(), int(sent["item_id"].removeprefix("item-")), sent["ts"])


def assert_exact(harness: Harness, sent: list[PlainEvent], model: int) -> None:
    scales = parse_scales("day,month")
    found = {
        (user.encode(), *where): bag for user in USERS for where, bag in harness.bags(user).items()
    }  # fmt: skip
    assert found == plain_bags(sent, scales)
    assert harness.ledger.balanced
    assert harness.ledger.applied == len(sent)
    for user in {each.user for each in sent}:
        embedding = harness.embedding(user.decode())
        assert embedding is not None
        assert embedding.model_id == MODELS[model].model_id
        assert relative_error(embedding.vectors.astype(np.float64), fresh(harness, user, model)) <= TOLERANCE


def fresh(harness: Harness, user: bytes, model: int) -> NDArray[np.float64]:
    """The user's vectors from all rows."""
    for partition in harness.partitions.values():
        users, rows = partition.store.read_users([user])
        if users:
            return ENCODERS[model].encode(resolve(rows, MODELS[model].scales, 1), 1)[0].astype(np.float64)
    raise AssertionError(f"no rows: {user!r}")


def test_a_failed_transaction_says_that_the_worker_would_end() -> None:
    with Harness(MODELS[0]) as harness:
        harness.topics.failure = Failure.BEFORE_COMMIT
        with pytest.raises(TransactionFailed, match="aborts it"):
            harness.send(event("ann", 1, 0))
        assert harness.bags("ann") == {}
        harness.restart()
        assert sum(harness.bags("ann")["day", "2024-10-04"].values()) == 1
