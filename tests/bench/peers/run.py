"""Running the peers: the same day bags of the same events, in processes of their own that print ``events_per_s N``."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaAdminClient

from tests.brokers import kafka_home

FOLDER = Path(__file__).parent
PYTHON = FOLDER.parents[2] / "build" / "bench-peers" / "bin" / "python"
DEADLINE_S = 600.0


class PythonPeer(NamedTuple):
    """A peer in Python: what it promises, with which interpreter it runs, and how many events it needs to show it."""

    name: str
    script: str
    python: Path
    events_max: int


PYTHON_PEERS = (
    PythonPeer("Quix Streams, exactly once, RocksDB and changelog", "quix_bag.py", PYTHON, 500_000),
    PythonPeer("Bytewax, in memory, no changelog, no recovery", "bytewax_bag.py", PYTHON, 500_000),
    PythonPeer("plain Faust table, at least once, RocksDB and changelog", "faust_bag.py", Path(sys.executable), 50_000),
)


class StreamsRun(NamedTuple):
    """What Kafka Streams did: its rate, and the name of its application."""

    events_per_s: float
    app_id: str


def kafka_streams(brokers: str, topic: str, n: int) -> StreamsRun:
    """Kafka Streams, exactly once, one thread."""
    app_id = f"kafka-streams-{time.time_ns()}"
    classes = f"{kafka_home()}/libs/*"
    command = ["java", "-Xmx2g", "-cp", classes, str(FOLDER / "KafkaStreamsBag.java"), brokers, topic, str(n), app_id]
    return StreamsRun(_rate(command, "Kafka Streams"), app_id)


def python_peer(peer: PythonPeer, brokers: str, topic: str, n: int) -> float:
    """Events per second of a peer in Python over the first events of the topic."""
    command = [str(peer.python), str(FOLDER / peer.script), brokers, topic, str(min(n, peer.events_max))]
    return _rate(command, peer.name)


def n_committed(brokers: str, group: str) -> int:
    """How many events a group has committed, of topics that begin at offset 0."""
    with closing(KafkaAdminClient(bootstrap_servers=brokers)) as admin:
        return sum(offset.offset for offset in admin.list_group_offsets(group)[group].values())


def _rate(command: list[str], name: str) -> float:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    words = done.stdout.split()
    if "events_per_s" not in words:
        raise RuntimeError(f"{name} did not finish: {done.stderr[-2000:]}")
    return float(words[words.index("events_per_s") + 1])
