"""`lurm verify`: encode users again from their rows, in full, and compare with what was published."""

from collections.abc import Mapping
from functools import partial
from hashlib import blake2b

import click
import numpy as np

from state.periods import format_scales
from state.walk import Output
from stream.commands.progress import progress_bar
from stream.errors import ConfigInvalid, LurmError
from stream.kafka.topics import configs
from stream.operations.comparison import Check, covers, unexplained
from stream.operations.replay import State, Wanted, newest_embeddings, newest_state
from stream.printable import say
from stream.records.embedding_record import Embedding
from stream.settings import Settings

EXAMPLES = """
\b
Examples:
  LURM_MODEL__BUNDLE=bundle lurm verify
  LURM_MODEL__BUNDLE=bundle lurm verify --sample 10000 --seed 7
  LURM_MODEL__BUNDLE=bundle lurm verify --share 0.001        # with millions of users
"""
COUNTS = ("equal", "different", "pending", "missing", "not_finite")
_BATCH_USERS = 1024
_EXAMPLES = 5


@click.command(epilog=EXAMPLES)
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="Of all users, by hash: only theirs is kept in memory.")  # fmt: skip
@click.option("--sample", type=click.IntRange(1), default=1000, show_default=True, help="Of these, users at most.")
@click.option("--seed", type=click.IntRange(0, 2**64), default=0, show_default=True, help="Which users.")
@click.option("--tolerance", type=click.FloatRange(0), help="Largest error, of the vectors' length. [default: 1e-4, or "
              "1e-2 for float16; give 2e-2 when the worker encoded on a GPU]")  # fmt: skip
@click.pass_obj
def verify(settings: Settings, share: float, sample: int, seed: int, tolerance: float | None) -> None:
    """Encode a sample of users again and compare; ends with 1 on a difference, or when a user is in two partitions.

    Only what should be equal is compared: the published seq is the newest row's, and the model is this bundle. Of the
    rest, who waits to be encoded or for a walk over everybody is counted as pending; who does not is missing, which is
    a difference as well. Whatever the sample, all rows and all embeddings of the share stand in memory at once: some
    300 bytes for a row of three interests, and for an embedding its vectors and 2.5 KB.
    """
    if settings.model.bundle is None:
        raise ConfigInvalid("no model: set LURM_MODEL__BUNDLE to a folder made by `lurm train`")
    # torch is slow to import.
    from lurm_model.bundle import Bundle  # noqa: PLC0415
    from lurm_model.inference.encoder import Encoder  # noqa: PLC0415

    bundle = Bundle.load(settings.model.bundle)
    wanted: Wanted = partial(in_share, share=share, seed=seed) if share < 1 else None
    with progress_bar("reading the topics") as progress:
        # First what was published, then the rows: rows may be newer, never older.
        published = newest_embeddings(settings, wanted, progress)
        state = newest_state(settings, wanted, progress)
    for record in state.records.values():
        record.refuse_other(bundle.codebook.interest_space_id, format_scales(bundle.scales))
    check = Check(bundle, Encoder(bundle, settings.model.device), tolerance)
    check.add_without_rows(_without_rows(settings, wanted, state, published))
    with progress_bar("encoding") as progress:
        users = choose(state, sample, seed)
        for batch, rows in state.batches(users, _BATCH_USERS):
            check.compare(batch, rows, published)
            progress(check.n_compared, len(users))
    check.set_missing(_missing(settings, check.pending, state, bundle.model_id))
    counts = " ".join(f"{name}={check.counts[name]}" for name in COUNTS)
    say(f"users={len(users)} {counts} largest_error={check.largest_error:.2e} model={bundle.model_id} seed={seed}")
    _refuse_parts(state)
    _refuse(check, settings)


def _refuse_parts(state: State) -> None:
    """**Raises** `LurmError` when users have parts of their lives in several partitions."""
    if apart := state.in_several():
        examples = ",".join(user.decode() for user in apart[:_EXAMPLES])
        raise LurmError(
            f"users are found in several partitions, each of which publishes a part of their life: n={len(apart)} "
            f"users={examples}; the producers use different partitioners: mend them, then `lurm repartition`"
        )


def _refuse(check: Check, settings: Settings) -> None:
    """**Raises** `LurmError` for what must not be."""
    users = ",".join(check.examples)
    if check.counts["not_finite"]:
        raise LurmError(f"the model gives no numbers, so nothing is published: users={users}; train it again")
    if check.counts["different"]:
        raise LurmError(f"published embeddings differ from their rows: users={users}")
    if check.counts["missing"]:
        raise LurmError(
            f"embeddings are missing that were published once: users={users} topic={settings.topics.embeddings}; was "
            "the topic made anew? a worker notices and publishes everybody again"
        )


def _missing(settings: Settings, pending: Mapping[bytes, int], state: State, model_id: str) -> list[bytes]:
    """Who is pending and will stay so, looked at twice: others are published or erased while we read.

    A topic that forgets inactive users may have forgotten these.
    """
    output = Output(model_id, settings.topics.embeddings)
    suspects = unexplained(pending, state, output)
    if not suspects:
        return []
    forgets = "delete" in configs(settings, output.topic).get("cleanup.policy", "")
    # What the records called published stands in the topic by now.
    published = newest_embeddings(settings, set(suspects).__contains__)
    left = set(newest_state(settings, set(suspects).__contains__).users())

    def is_missing(user: bytes) -> bool:
        embedding = published.get(user.decode())
        forgotten = forgets and embedding is None
        return user in left and not forgotten and not covers(embedding, model_id, pending[user])

    return list(filter(is_missing, suspects))


def in_share(user: bytes, share: float, seed: int) -> bool:
    """Whether a user is of this share of all; it takes no list of them."""
    return int.from_bytes(blake2b(user, digest_size=8, key=b"%d" % seed).digest()) < share * 2**64


def choose(state: State, sample: int, seed: int) -> list[bytes]:
    """The users to compare, the same for the same seed and users."""
    users = state.users()
    if len(users) <= sample:
        return users
    chosen = np.random.default_rng(seed).choice(len(users), sample, replace=False)
    return [users[i] for i in sorted(chosen.tolist())]


def _without_rows(settings: Settings, wanted: Wanted, state: State, published: Mapping[str, Embedding]) -> list[str]:
    """Users with an embedding but no row: their rows were lost, unless they were erased while we were reading."""
    missing = published.keys() - {user.decode() for user in state.users()}
    return sorted(missing & newest_embeddings(settings, wanted).keys()) if missing else []
