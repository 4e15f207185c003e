"""Events per second of unknown items with attributes, beside those of known ones, at 100,000 interests on real Kafka.

Three topics are read by whole workers in turn: items of the codebook; unknown ones of which each has one of 50,000
sets of attributes, or of 3,000,000, more than are remembered, and a title that no token stands for. A last row asks
for sets alone that were never seen, in the thread that finds them.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lurm_model.bundle import Bundle
from lurm_model.interests.attribute_sets import AttributeSets
from stream.commands.produce import Keyed, send
from stream.kafka.topics import create_missing
from stream.trial.embedded_broker import ApacheKafka
from tests.bench.ingest import zipf
from tests.bench.worker import D_ITEM, FIRST_MS, N_INTERESTS, bundle, run_worker, settings_of
from tests.brokers import kafka_home

N_VALUES, N_KEYS, N_ALONE = 400, 4, 4_096
_NEVER_S = 86_400
N_SETS = {"known": 0, "50,000 sets": 50_000, "3,000,000 sets": 3_000_000}


def bundle_with_tokens() -> Bundle:
    """As the benchmarks' bundle, with 1,600 tokens."""
    plain = bundle()
    tokens = {f"k{key}=v{value}": key * N_VALUES + value for key in range(N_KEYS) for value in range(N_VALUES)}
    vectors = np.random.default_rng(1).normal(size=(len(tokens), D_ITEM)).astype(np.float32)
    book = replace(plain.codebook, tokens=tokens, token_vectors=vectors)
    return Bundle.build(plain.config, book, plain.weights, {}, {})


def attributes(number: int) -> dict[str, str]:
    """The set of this number."""
    return {f"k{key}": f"v{number // N_VALUES**key % N_VALUES}" for key in range(N_KEYS)}


def events(n: int, n_sets: int) -> Iterator[Keyed]:
    """Events of 50,000 users; items are known, or each has a set of its own, all of which are as frequent."""
    numbers = np.random.default_rng(8).integers(0, max(n_sets, 200_000), n).tolist()
    for k, (user, number) in enumerate(zip(zipf(n).tolist(), numbers, strict=True)):
        event = {"user_id": f"u{user}", "item_id": f"i{number}" if not n_sets else f"new{number}", "ts": FIRST_MS + k}
        # What an item says of itself costs the same to read whether it is known or not.
        said = {"attributes": attributes(number % max(n_sets, 1)) | {"title": f"the item number {number}"}}
        yield Keyed(b"u%d" % user, json.dumps(event | said).encode())


def run(n: int, rounds: int) -> None:
    """Every topic in turn, and the ratio to known items."""
    home = kafka_home()
    assert home is not None
    with tempfile.TemporaryDirectory() as name, ApacheKafka(home, Path(name) / "kafka") as broker:
        model = bundle_with_tokens()
        model.save(Path(name) / "bundle")
        print(f"\nattributes: {n:,} events, {N_INTERESTS:,} interests, 4 partitions, Apache Kafka on the same machine")
        rates: dict[str, list[float]] = {kind: [] for kind in N_SETS}
        topics = {kind: f"bench-{i}" for i, kind in enumerate(N_SETS)}
        for kind, n_sets in N_SETS.items():
            settings = settings_of(broker.brokers, Path(name), topics[kind], _NEVER_S)
            create_missing(settings)
            asyncio.run(send(settings, events(n, n_sets), settings.topics.partitions, None, lambda _: None))
        for _ in range(rounds):
            for kind, topic in topics.items():
                settings = settings_of(broker.brokers, Path(name), topic, _NEVER_S)
                rates[kind].append(run_worker(settings, n).events_per_s)
        known = statistics.median(rates["known"])
        for kind, found in rates.items():
            _report(kind, found, known)
        _report("sets never seen, alone", [_alone(model) for _ in range(rounds)], known)


def _alone(model: Bundle) -> float:
    sets = AttributeSets(model.codebook)
    _, new = sets.look_up([attributes(7919 * i) for i in range(N_ALONE)])
    sets.find(new.sets[:1])
    start = time.perf_counter()
    sets.find(new.sets)
    return len(new.sets) / (time.perf_counter() - start)


def _report(kind: str, rates: list[float], known: float) -> None:
    runs = " ".join(f"{rate / 1000:.1f}" for rate in rates)
    rate = statistics.median(rates)
    print(f"{kind:24} {rate:>10,.0f} events/s  ratio {rate / known:.2f}  (runs in k: {runs})", flush=True)
