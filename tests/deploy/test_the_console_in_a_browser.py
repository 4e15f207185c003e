"""The console in a real Chromium, beside a real worker: what the page shows is what there is, and ids stay text."""

import dataclasses
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from lurm_model.bundle import Bundle
from state.periods import MS_PER_DAY
from stream.embedded_broker import free_ports
from stream.settings import Metrics
from stream.worker_process import ChildProcess
from tests.brokers import Broker, new_broker
from tests.plain import PlainEvent
from tests.workers import FIRST_DAY, Traffic, WorkerProcess, tiny_bundle, wait_until, worker_settings

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
# By interest: what ann did on two days, and whoever else there is.
EVENTS = [(b"ann", 3, 0), (b"ann", 3, 0), (b"ann", 7, 1), (b"bob", 3, 0), (HOSTILE.encode(), 3, 1)]


class Running(NamedTuple):
    broker: Broker
    worker: WorkerProcess
    url: str
    chromium: str
    folder: Path

    def page(self, fragment: str = "", *options: str) -> str:
        """The page as it stands after some seconds of the browser's time."""
        command = [self.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
                   f"--user-data-dir={self.folder / 'profile'}", *options, f"{self.url}/{fragment}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dom(self, fragment: str = "") -> str:
        return self.page(fragment, "--dump-dom")

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=30) as answer:
            return json.load(answer)


def hostile_bundle() -> Bundle:
    """The tiny bundle, whose first item of interest 3 has a hostile name."""
    made = tiny_bundle()
    items = {HOSTILE: 3} | made.codebook.interest_of
    return Bundle.build(made.config, dataclasses.replace(made.codebook, interest_of=items), made.weights, {}, {})


@pytest.fixture(scope="module")
def running(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("console")
    hostile_bundle().save(folder / "bundle")
    # Real Kafka is for tests/broker/test_console.py; this one is killed at the end, and starts at once.
    broker = new_broker("embedded", folder / "broker")
    (port,) = free_ports(1)
    with ExitStack() as stack:
        stack.callback(broker.kill)
        settings = worker_settings(broker.start().brokers, folder, folder / "bundle", metrics=Metrics(port=port))
        worker = stack.enter_context(WorkerProcess(settings, folder / "worker.log"))
        command = (sys.executable, "-m", "stream.cli", "console", "--port", "0", "--interval-s", "0.5")
        console = stack.enter_context(ChildProcess(settings, folder / "console.log", command)).start()
        events = [PlainEvent(user, interest, (FIRST_DAY + day) * MS_PER_DAY) for user, interest, day in EVENTS]
        Traffic(settings, seed=1).send_these(events)
        worker.ready()
        wait_until(lambda: "address=" in console.output(), explain=console.output)
        url = re.findall(r"address=(\S+)", console.output())[0]
        made = Running(broker, worker, url, chromium, folder)
        wait_until(lambda: seen(made), explain=lambda: (worker.output(), console.output(), made.api("overview")))
        yield made
        assert console.terminate() == 0, console.output()


def seen(made: Running) -> bool:
    """Whether the console has every event's row and everybody's embedding, and nothing to complain of."""
    found = made.api("overview")
    applied = sum(each["ledger"]["applied"] for each in found["partitions"] if each["ledger"])
    if (found["problems"], applied, found["held"]["users"]) != ([], len(EVENTS), 3):
        return False
    return not made.api("user/ann")["pending"] and made.api("user/ann")["n_compared"] == 3


def cells(table: str) -> list[list[str]]:
    """The text of a table's rows."""
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_the_page_shows_partitions_with_owner_lag_and_a_ledger_that_balances(running: Running) -> None:
    page = running.dom()
    assert "All is well" in page
    head, *rows = cells(page.partition('id="partitions"')[2].partition("</table>")[0])
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert [each["partition"] for each in found] == ["0", "1"]
    assert {each["owner"] for each in found} == {f"http://127.0.0.1:{running.worker.port}"}
    assert {(each["lag, events"], each["ledger"]) for each in found} == {("0", "balances")}
    assert sum(int(each["= applied"]) for each in found) == len(EVENTS)
    head, row = cells(page.partition('id="workers"')[2].partition("</table>")[0])
    assert dict(zip(head, row, strict=True))["dirty users"] == "0"


def test_the_inspector_shows_interests_by_period_embeddings_and_neighbours(running: Running) -> None:
    page = running.dom("#user=ann")
    found = running.api("user/ann")
    assert found["scales"]["day"]["counts"] == [[2, 0], [0, 1]]
    assert [each["interest"] for each in found["scales"]["day"]["interests"]] == [3, 7]
    days = page.partition("Interests by day, counts")[2].partition("</table>")[0]
    assert cells(days) == [
        ["interest", "2024-10-04", "2024-10-05"],
        [f"3: {HOSTILE}, item-3, item-23", "2", ""],
        ["7: item-7, item-27", "", "1"],
    ]
    levels = re.findall(r'class="l(\d)"', page.partition("Interests by day, as a map")[2].partition("</table>")[0])
    assert [level == "0" for level in levels] == [False, True, True, False]
    assert found["embeddings"][0]["model_id"] in page
    assert {each["user_id"] for each in found["nearest"]} == {"bob", HOSTILE}


def test_hostile_users_and_items_are_text_wherever_they_stand(running: Running) -> None:
    page = running.dom(f"#user={quote(HOSTILE, safe='')}")
    assert "<title>lurm console</title>" in page
    assert "<img" not in page
    assert len(re.findall("<script", page)) == 1, "the page's own"
    shown = re.findall(r'<strong class="id">(.*?)</strong>', page)
    assert [unescape(each) for each in shown] == [HOSTILE]


def test_the_page_says_what_is_away(running: Running) -> None:
    """Last, for it kills the worker, then the broker."""
    assert "nothing is known of the user: user=nobody" in running.dom("#user=nobody")
    running.worker.kill()
    wait_until(lambda: running.api("overview")["problems"])
    page = unescape(running.dom())
    assert "no answer: [Errno 111] Connection refused" in page
    assert "Partition 0: no worker asked here owns it." in page
    assert running.api("overview")["partitions"][0]["ledger"], "the changelog's"
    running.broker.kill()
    wait_until(lambda: any("The broker" in each for each in running.api("overview")["problems"]))
    assert "The broker" in unescape(running.dom())
    assert running.api("user/ann")["scales"], "what was read before is still there"
