"""A soak from beginning to end: its broker, bundle, workers, traffic and readers, the faults, and the check."""

import itertools
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream.errors import LurmError
from stream.kafka.topics import create_missing
from stream.operations.replay import newest_embeddings
from stream.operations.scrape import Samples, quantile, value
from stream.settings import App, Encode, Kafka, Metrics, Model, Settings, State, Topics
from stream.soak.check import differences, is_applied, unseen
from stream.soak.crew import Crew, Member
from stream.soak.erasures import erasures
from stream.soak.faults import Scene, inject
from stream.soak.readers import Readers
from stream.soak.traffic import Sent, Traffic, sent_events
from stream.testing.bundle import tiny_bundle
from stream.trial.embedded_broker import start_broker

_MEMBERS = ("a", "b", "c")
_SCALES = "day,month"
_DRAIN_S = 300.0
_POLL_S = 1.0
_DIFFERENCES_MAX = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard; ``seed`` decides the faults and the events."""

    seconds: float
    seed: int
    rate: float


@dataclass(slots=True)
class Status:
    """What a terminal shows while it runs."""

    phase: str = "starting"
    fault: str = ""
    n_faults: int = 0
    n_events: int = 0
    n_users: int = 0
    freshness_p99_s: float = float("nan")
    done_s: float = 0.0


@dataclass
class Soak:
    """One soak; ``run`` gives the summary."""

    plan: Plan
    folder: Path
    show: Callable[[Status], None]
    status: Status = field(default_factory=Status)

    def run(self) -> dict[str, Any]:
        """Run it. **Raises** `LurmError` when it cannot be carried out; differences are in the summary."""
        started_s = time.monotonic()
        tiny_bundle(scales=_SCALES).save(self.folder / "bundle")
        with ExitStack() as stack:
            broker = start_broker(self.folder / "broker")
            stack.enter_context(broker)
            settings = soak_settings(broker.brokers, self.folder)
            create_missing(settings)
            traffic = Traffic(settings, self.plan.seed, self.plan.rate, self.plan.seconds)
            stack.callback(traffic.stop)
            members = [Member(settings, self.folder, name) for name in _MEMBERS]
            crew = stack.enter_context(Crew(members, lambda: self._look(crew, traffic, started_s)))
            readers = stack.enter_context(Readers(settings))
            pick = random.Random(self.plan.seed)  # noqa: S311 - a seed makes it repeatable
            scene = Scene(settings, broker, crew, traffic, pick)
            faults = self._suffer(scene)
            self._drain(settings, crew)
            sent = sent_events(settings, erasures(settings).ends)
            found = self._check(settings, sent, readers)
            if sent.n_events + sent.n_poison < traffic.n_acknowledged:
                found.append(f"the broker lost events: acknowledged={traffic.n_acknowledged} found={sent.n_events}")
            found += [*crew.unexpected, *readers.failures]
            return self._summary(crew.samples(), sent, faults, found) | {
                "erasures": scene.n_erasures,
                "embeddings_read": readers.n_read,
                "worker_starts": crew.n_starts,
                "worker_exits": {str(code): n for code, n in sorted(crew.exits.items())},
                "broker": type(broker).__name__,
                "seconds": round(time.monotonic() - started_s, 1),
            }

    def _suffer(self, scene: Scene) -> Mapping[str, int]:
        for member in scene.crew.members[:2]:
            member.wanted = True
        scene.traffic.start()
        self.status.phase = "faults"
        faults = inject(scene, time.monotonic() + self.plan.seconds, self._fault)
        scene.traffic.stop()
        return faults

    def _fault(self, name: str) -> None:
        self.status.fault = name
        self.status.n_faults += bool(name)

    def _drain(self, settings: Settings, crew: Crew) -> None:
        self.status.phase = "draining"
        deadline = time.monotonic() + _DRAIN_S
        while not (is_applied(settings) and not erasures(settings).n_unanswered and self._is_clean(crew)):
            if time.monotonic() > deadline:
                raise LurmError(f"the workers did not catch up within {_DRAIN_S:.0f} s; logs={self.folder}")
            time.sleep(_POLL_S)

    def _is_clean(self, crew: Crew) -> bool:
        """Both workers are ready and have nobody to encode."""
        # The gauges are set once a second.
        time.sleep(2 * _POLL_S)
        samples = [member.process.samples() for member in crew.members[:2]]
        return all(value(each, "lurm_ready") == 1 and value(each, "lurm_dirty_users") == 0 for each in samples)

    def _check(self, settings: Settings, sent: Sent, readers: Readers) -> list[str]:
        self.status.phase = "checking"
        found = list(itertools.islice(differences(settings, sent), _DIFFERENCES_MAX))
        published, deadline = newest_embeddings(settings), time.monotonic() + _DRAIN_S / 4
        while (missing := unseen(published, readers.seen)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if missing:
            found.append(f"the group was not given the last embedding of: n={len(missing)} first={missing[:5]}")
        return found

    def _look(self, crew: Crew, traffic: Traffic, started_s: float) -> None:
        status = self.status
        status.n_events, status.n_users = traffic.n_acknowledged, traffic.n_users
        status.freshness_p99_s = quantile(crew.samples(), "lurm_freshness_seconds", 0.99)
        status.done_s = time.monotonic() - started_s
        self.show(status)

    def _summary(self, samples: Samples, sent: Sent, faults: Mapping[str, int], found: list[str]) -> dict[str, Any]:
        return {
            "equal": not found,
            "differences": found,
            "seed": self.plan.seed,
            "minutes": self.plan.seconds / 60,
            "events_sent": sent.n_events,
            "poison_sent": sent.n_poison,
            "events_erased": sent.n_erased,
            "users": sent.reference.n_users,
            "faults": dict(faults),
            "freshness_p50_s": round(quantile(samples, "lurm_freshness_seconds", 0.5), 2),
            "freshness_p99_s": round(quantile(samples, "lurm_freshness_seconds", 0.99), 2),
            "rolled_up_rows": int(value(samples, "lurm_rolled_up_rows_total")),
        }


def soak_settings(brokers: str, folder: Path) -> Settings:
    """Small and quick: a session ends after seconds, every other worker stands by."""
    kafka = Kafka(
        brokers=brokers,
        start_deadline_s=60.0,
        session_timeout_s=8.0,
        request_timeout_s=15.0,
        transaction_timeout_s=10.0,
    )
    return Settings(
        app=App(id="lurm-soak"),
        kafka=kafka,
        topics=Topics(partitions=4),
        state=State(dir=folder / "state", standbys=1),
        model=Model(bundle=folder / "bundle", device="cpu"),
        encode=Encode(interval_s=0.5),
        metrics=Metrics(port=0),
    )


def broker_name() -> str:
    """Which broker `start_broker` would start."""
    return "Apache Kafka (KAFKA_HOME)" if os.environ.get("KAFKA_HOME") else "embedded (noida-db)"
