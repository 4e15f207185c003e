"""Workers with events, and a console beside them: real processes on a broker of their own."""

import dataclasses
import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lurm_model.bundle import Bundle
from stream.settings import Settings
from stream.trial.worker_process import ChildProcess
from tests.brokers import Broker, new_broker
from tests.workers import Traffic, WorkerProcess, second, tiny_bundle, wait_until, worker_settings


class ConsoleScene(NamedTuple):
    """What runs."""

    broker: Broker
    workers: list[WorkerProcess]
    url: str
    traffic: Traffic

    def api(self, path: str) -> Any:
        """What an endpoint says."""
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=30) as answer:
            return json.load(answer)


def named(item: str, interest: int) -> Bundle:
    """The tiny bundle, in which an interest's first item has this name."""
    made = tiny_bundle()
    items = {item: interest} | made.codebook.interest_of
    return Bundle.build(made.config, dataclasses.replace(made.codebook, interest_of=items), made.weights, {}, {})


@contextmanager
def console_scene(folder: Path, bundle: Bundle, *, n_workers: int = 1, **sections: Any) -> Iterator[ConsoleScene]:
    """Start the broker, the workers and the console that watches them; ``sections`` are of the settings."""
    bundle.save(folder / "bundle")
    # Real Kafka is for tests/broker/test_console.py; this one is killed at the end, and starts at once.
    broker = new_broker("embedded", folder / "broker")
    with ExitStack() as stack:
        stack.callback(broker.kill)
        first = worker_settings(broker.start().brokers, folder, folder / "bundle", **sections)
        workers = []
        for name in "abc"[:n_workers]:
            worker = WorkerProcess(second(first, name), folder / f"worker-{name}.log")
            workers.append(stack.enter_context(worker).ready())
        with consoling(first, workers, folder) as url:
            yield ConsoleScene(broker, workers, url, Traffic(first, seed=1))


@contextmanager
def consoling(settings: Settings, workers: list[WorkerProcess], folder: Path) -> Iterator[str]:
    """A console on a free port that watches these workers; it must end well."""
    urls = [part for each in workers for part in ("--worker", f"http://127.0.0.1:{each.port}")]
    command = (sys.executable, "-m", "stream.cli", "console", "--port", "0", "--interval-s", "0.5", *urls)
    with ChildProcess(settings, folder / "console.log", command).start() as console:
        wait_until(lambda: "address=" in console.output(), explain=console.output)
        yield re.findall(r"address=(\S+)", console.output())[-1]
        assert console.terminate() == 0, console.output()
