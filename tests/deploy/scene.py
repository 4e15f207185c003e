"""A worker under load, an exporter, and a Prometheus that scrapes both: real processes on free ports of 127.0.0.1."""

import json
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from state.periods import MS_PER_DAY
from stream.settings import Metrics, Settings, State
from stream.trial.embedded_broker import free_ports
from tests.brokers import Broker, environment_of, producer
from tests.workers import FIRST_DAY, Traffic, WorkerProcess, tiny_bundle, wait_until, worker_settings

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = PROMETHEUS / "lurm.rules.yaml"
# Windows, waits and ages of minutes become seconds; what counts crashes and rebalances still looks back as far as ever.
_SHORTER = (
    (r"for: \d+[mh]", "for: 1s"),
    (r"(?<!start_time_seconds)(?<!rebalances_total)\[\d+m\]", "[5s]"),
    (r"(lurm_freshness_seconds\S+)\[\dh\]", r"\1[15s]"),
    (r"> 60 and", "> 2 and"),
    (r"> 1e6", "> 300"),
)
Replacements = Sequence[tuple[str, str]]
_TOKEN = "let-prometheus-in"


class Scene:
    """What runs, and what Prometheus answers."""

    def __init__(self, broker: Broker, settings: Settings, folder: Path, web: str) -> None:
        self.broker = broker
        self.settings = settings
        self.folder = folder
        self.worker = WorkerProcess(settings, folder / "worker.log")
        self._web = web

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        return self._get(f"query?{urllib.parse.urlencode({'query': expr})}")["result"]

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, with the label that tells which of several, if any."""
        alerts = self._get("alerts")["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"].get("how", "")) for each in alerts if each["state"] == "firing"
        }

    def wait_firing(self, alert: str, how: str = "") -> None:
        """Wait until this alert fires."""
        wait_until(lambda: (alert, how) in self.firing(), explain=lambda: (self.firing(), self.worker.output()))

    def wait_over(self, *alerts: str) -> None:
        """Wait until none of these alerts fires; the worker is started again if it ended."""

        def over() -> bool:
            if self.worker.returncode is not None:
                self.worker.start()
            return not {alert for alert, _ in self.firing()} & set(alerts)

        wait_until(over, explain=lambda: (self.firing(), self.worker.output()))

    def scrape(self, *workers: Settings) -> None:
        """Tell Prometheus which workers there are."""
        targets = [f"127.0.0.1:{each.metrics.port}" for each in workers]
        new = self.folder / "targets.new"
        new.write_text(json.dumps([{"targets": targets}]))
        new.replace(self.folder / "targets.json")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self._web}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def scene(broker: Broker, folder: Path, state: State | None = None, rules: Replacements = ()) -> Iterator[Scene]:
    """Start everything, and wait until Prometheus has seen the worker at work and the exporter.

    ``rules`` are replacements in the rules beside those that shorten them.
    """
    tiny_bundle().save(folder / "bundle")
    port, exporter_port, web_port = free_ports(3)
    metrics = Metrics(port=port, token=_TOKEN)
    state = state or State(dir=folder / "state")
    settings = worker_settings(broker.brokers, folder, folder / "bundle", metrics=metrics, state=state)
    web = f"127.0.0.1:{web_port}"
    made = Scene(broker, settings, folder, web)
    made.scrape(settings)
    with ExitStack() as stack:
        worker = stack.enter_context(made.worker).start()
        exporter = [sys.executable, "-m", "stream.cli", "exporter", "--port", str(exporter_port), "--interval-s", "0.5"]
        stack.enter_context(running(exporter, folder / "exporter.log", environment_of(settings)))
        config = prometheus_config(folder, exporter_port, rules)
        prometheus = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        stack.enter_context(running([*prometheus, f"--web.listen-address={web}"], folder / "prometheus.log", {}))
        worker.ready()
        stack.enter_context(Traffic(settings, seed=6).flowing(200))
        stack.enter_context(poison(settings))
        wait_until(lambda: answers(made, "rate(lurm_freshness_seconds_count[5s]) > 0"), explain=worker.output)
        wait_until(lambda: answers(made, "lurm_group_committed_offset > 0"), explain=worker.output)
        yield made


def answers(made: Scene, expr: str) -> bool:
    """Whether Prometheus runs and has data for this expression."""
    try:
        return bool(made.query(expr))
    except OSError:
        return False


@contextmanager
def running(command: Sequence[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process, ended by its own pid."""
    with log.open("wb") as file:
        child = subprocess.Popen(command, env=environment or None, stdout=file, stderr=file)
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)


def prometheus_config(folder: Path, exporter_port: int, rules: Replacements) -> Path:
    """The example of deploy/, with our targets and token, a scrape a second and the rules' waits shortened."""
    text = RULES.read_text(encoding="utf-8")
    for pattern, shorter in (*rules, *_SHORTER):
        text, n = re.subn(pattern, shorter, text)
        assert n, pattern
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    (folder / "token").write_text(_TOKEN)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yaml")]
    workers, exporter = config["scrape_configs"]
    del workers["static_configs"]
    workers["file_sd_configs"] = [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}]
    exporter["static_configs"] = [{"targets": [f"127.0.0.1:{exporter_port}"]}]
    for job in (workers, exporter):
        job["authorization"] = {"credentials_file": str(folder / "token")}
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@contextmanager
def poison(settings: Settings) -> Iterator[None]:
    """Ten events a second that are none, and a hundred of an item that the model does not know."""
    stop, unknown = threading.Event(), json.dumps({"user_id": "ann", "item_id": "new", "ts": FIRST_DAY * MS_PER_DAY})

    def flow() -> None:
        with producer(settings) as client:
            while not stop.wait(0.1):
                client.send(settings.topics.events, b"{", b"ann")
                for _ in range(10):
                    client.send(settings.topics.events, unknown.encode(), b"ann")

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
