"""What a soak does to workers and broker; every fault ends with all of them allowed to run again."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat

from stream.failpoints import STEPS
from stream.settings import Settings
from stream.soak.crew import Crew, Member
from stream.soak.erasures import ask
from stream.soak.traffic import Traffic
from stream.trial.embedded_broker import ApacheKafka, EmbeddedBroker

_BURST_EVENTS = 5_000
_OUTAGE_S = (3.0, 12.0)
_PAUSE_S = (1.0, 5.0)
_JOIN_S = 30.0


@dataclass
class Scene:
    """What faults can reach. The first two members are the ones that always come back."""

    settings: Settings
    broker: EmbeddedBroker | ApacheKafka
    crew: Crew
    traffic: Traffic
    pick: random.Random
    n_erasures: int = 0

    @property
    def victim(self) -> Member:
        """One of the two workers."""
        return self.pick.choice(self.crew.members[:2])

    def wait(self, shortest_s: float, longest_s: float) -> None:
        """Some time."""
        time.sleep(self.pick.uniform(shortest_s, longest_s))


def kill_worker(scene: Scene) -> None:
    """SIGKILL."""
    scene.victim.end(signal.SIGKILL)


def kill_all_workers(scene: Scene) -> None:
    """Both at once, and nobody for a while."""
    first, second = scene.crew.members[:2]
    with first.down(signal.SIGKILL), second.down(signal.SIGKILL):
        scene.wait(0, 5)


def restart_worker(scene: Scene) -> None:
    """SIGTERM: it hands over, ends, and comes back."""
    scene.victim.end(signal.SIGTERM)


def zombie(scene: Scene) -> None:
    """A worker is silent for longer than its session, and then goes on as if nothing had been."""
    process = scene.victim.process
    process.signal(signal.SIGSTOP)
    session_s = scene.settings.kafka.session_timeout_s
    scene.wait(1.2 * session_s, 2 * session_s)
    process.signal(signal.SIGCONT)


def third_worker(scene: Scene) -> None:
    """One more joins, and leaves."""
    third = scene.crew.members[2]
    third.wanted = True
    deadline_s = time.monotonic() + _JOIN_S
    while not third.process.metric("lurm_ready") and time.monotonic() < deadline_s:
        time.sleep(0.5)
    scene.wait(0, 10)
    third.wanted = False
    with third.down(scene.pick.choice([signal.SIGTERM, signal.SIGKILL])):
        pass


def lose_disk(scene: Scene) -> None:
    """A worker comes back to an empty disk."""
    victim = scene.victim
    with victim.down(signal.SIGKILL):
        shutil.rmtree(victim.disk, ignore_errors=True)


def fail_between_two_effects(scene: Scene) -> None:
    """A worker kills itself at a step of a batch, an encode cycle, a roll-up or a recovery."""
    victim = scene.victim
    with victim.down(signal.SIGTERM):
        victim.failpoint = f"{scene.pick.choice(STEPS)}:{scene.pick.randint(1, 20)}"


def stop_broker(scene: Scene) -> None:
    """The broker is asked to end, and started again."""
    scene.broker.stop()
    scene.wait(*_OUTAGE_S)
    scene.broker.start()


def kill_broker(scene: Scene) -> None:
    """SIGKILL for the broker."""
    scene.broker.kill()
    scene.wait(*_OUTAGE_S)
    scene.broker.start()


def freeze_broker(scene: Scene) -> None:
    """The broker holds every connection and answers nothing."""
    pid = scene.broker.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.wait(*_OUTAGE_S)
    finally:
        os.kill(pid, signal.SIGCONT)


def burst(scene: Scene) -> None:
    """Thousands of events at once."""
    scene.traffic.burst(_BURST_EVENTS)


def erase_user(scene: Scene) -> None:
    """Somebody is to be forgotten; the workers find out on their own."""
    scene.n_erasures += ask(scene.settings, scene.pick)


Fault = Callable[[Scene], None]
_ANYWHERE: tuple[Fault, ...] = (
    kill_worker,
    kill_all_workers,
    restart_worker,
    lose_disk,
    fail_between_two_effects,
    burst,
    erase_user,
)
# The embedded broker loses what it holds when it is killed, after an outage its groups may stay stuck for minutes, and
# it waits for ever for a silent member, or for one with a static id that left.
_KAFKA_ONLY: tuple[Fault, ...] = (kill_broker, stop_broker, freeze_broker, zombie, third_worker)


# The shortest soak has these: a death, a lost disk, an erasure and, where they can be, a zombie and a broker's death.
_ALWAYS: tuple[Fault, ...] = (kill_worker, lose_disk, erase_user, zombie, kill_broker)


def _kinds(scene: Scene) -> tuple[list[Fault], list[Fault]]:
    """What must happen, and everything that may."""
    kinds = list(_ANYWHERE) + (list(_KAFKA_ONLY) if isinstance(scene.broker, ApacheKafka) else [])
    return [fault for fault in _ALWAYS if fault in kinds], kinds


def deal(scene: Scene) -> Iterator[Fault]:
    """Faults without end: in a random order what must happen, the others, then all of them again and again."""
    first, kinds = _kinds(scene)
    rest = [fault for fault in kinds if fault not in first]
    for some in chain([first, rest], repeat(kinds)):
        scene.pick.shuffle(some)
        yield from some


def inject(scene: Scene, end_s: float, listen: Callable[[str], None]) -> Mapping[str, int]:
    """One fault after the other, with pauses, until the time is up and all that must happen did; how often each was."""
    done: dict[str, int] = {}
    faults, must = deal(scene), {fault.__name__ for fault in _kinds(scene)[0]}
    scene.wait(*_PAUSE_S)
    while time.monotonic() < end_s or not must <= done.keys():
        fault = next(faults)
        name = fault.__name__
        listen(name)
        fault(scene)
        done[name] = done.get(name, 0) + 1
        listen("")
        scene.wait(*_PAUSE_S)
    return done
