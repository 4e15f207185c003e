"""The console in a real Chromium, beside a real worker: what each part of the page shows is what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from state.periods import MS_PER_DAY
from stream.settings import Console, Encode
from tests.deploy.browser import Page, browsing
from tests.deploy.console_scene import ConsoleScene, console_scene, consoling, named
from tests.plain import PlainEvent
from tests.workers import FIRST_DAY, newest_published, wait_until

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
# By interest: what ann did on two days, and whoever else there is.
EVENTS = [(b"ann", 3, 0), (b"ann", 3, 0), (b"ann", 7, 1), (b"bob", 3, 0), (HOSTILE.encode(), 9, 1)]
LAST, NEAREST = '[aria-label="Last embeddings"]', '[aria-label="Nearest users"]'
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def running(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleScene]:
    # Long enough for the page to see users that wait.
    slowly = Encode(interval_s=4)
    with console_scene(tmp_path_factory.mktemp("console"), named(HOSTILE, 3), encode=slowly) as made:
        made.traffic.send_these([event(*each) for each in EVENTS])
        wait_until(lambda: seen(made), explain=lambda: (made.workers[0].output(), made.api("overview")))
        yield made


@pytest.fixture(scope="module")
def page(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(chromium, tmp_path_factory.mktemp("browser")) as made:
        yield made


def event(user: bytes, interest: int, day: int) -> PlainEvent:
    return PlainEvent(user, interest, (FIRST_DAY + day) * MS_PER_DAY)


def seen(made: ConsoleScene) -> bool:
    """Whether the console has every event's row and everybody's embedding, and nothing to complain of."""
    found = made.api("overview")
    applied = sum(each["ledger"]["applied"] for each in found["partitions"] if each["ledger"])
    if (found["problems"], applied, found["held"]["users"]) != ([], len(EVENTS), 3):
        return False
    return not made.api("user/ann")["pending"] and made.api("user/ann")["n_compared"] == 3


def wait_shown(page: Page, condition: Any) -> None:
    """Wait until the page shows it by itself."""
    wait_until(condition, explain=lambda: page.text("main"))


def n_applied(page: Page) -> int:
    return sum(int(each["= applied"].replace(",", "")) for each in page.rows("#partitions"))


def test_the_page_shows_partitions_with_owner_lag_and_a_ledger_that_balances(running: ConsoleScene, page: Page) -> None:
    page.open(running.url)
    wait_shown(page, lambda: "All is well" in page.text("#status") and n_applied(page) == len(EVENTS))
    found = page.rows("#partitions")
    assert [each["partition"] for each in found] == ["0", "1"]
    assert {each["owner"] for each in found} == {f"http://127.0.0.1:{running.workers[0].port}"}
    assert {(each["lag, events"], each["ledger"]) for each in found} == {("0", "balances")}


@pytest.mark.parametrize(("asked", "shown"), [(".", "."), ("..", ".."), ("\x1b[2J\u202eann", "\\u{1b}[2J\\u{202e}ann")])
def test_an_id_that_a_path_would_lose_or_that_turns_text_around_is_asked_for_and_shown(
    running: ConsoleScene, page: Page, asked: str, shown: str
) -> None:
    page.open(f"{running.url}/#user={quote(asked)}")
    wait_shown(page, lambda: page.text("#user-error").endswith(f"user={shown}"))


def test_the_inspector_shows_interests_by_period(running: ConsoleScene, page: Page) -> None:
    page.open(f"{running.url}/#user=ann")
    found = running.api("user/ann")
    assert found["scales"]["day"]["counts"] == [[2, 0], [0, 1]]
    wait_shown(page, lambda: page.rows('[aria-label="Interests by day, counts"]'))
    assert page.rows('[aria-label="Interests by day, counts"]') == [
        {"interest": f"3: {HOSTILE}, item-3, item-23", "2024-10-04": "2", "2024-10-05": ""},
        {"interest": "7: item-7, item-27", "2024-10-04": "", "2024-10-05": "1"},
    ]
    levels = page.js("""[...document.querySelectorAll('[aria-label="Interests by day, as a map"] td')]
                        .map((cell) => cell.className)""")
    assert [level == "l0" for level in levels] == [False, True, True, False]


def test_the_inspector_shows_the_last_embeddings_and_the_nearest_users(running: ConsoleScene, page: Page) -> None:
    """Expected are the topic's vectors, not what the console says of them."""
    published = newest_published(running.traffic.settings)
    page.open(f"{running.url}/#user=ann")
    wait_shown(page, lambda: page.rows(NEAREST))
    (last,) = page.rows(LAST)
    ann = published[b"ann"]
    assert (last["seq"], last["norm"], last["model"]) == (str(ann.seq), f"{ann.norm:.3f}", ann.model_id)
    assert last["newest event (UTC)"] == "2024-10-05 00:00:00"
    cosines = {user.decode(): cosine(ann.vectors, published[user].vectors) for user in published if user != b"ann"}
    assert set(cosines) == {"bob", HOSTILE}
    nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)
    shown = page.rows(NEAREST)
    assert [each["user"] for each in shown] == nearest
    assert [float(each["cosine"]) for each in shown] == pytest.approx([cosines[user] for user in nearest], abs=1e-4)
    page.js(f"document.querySelector('{NEAREST} a').click()")
    wait_shown(page, lambda: page.text("#user strong.id") == nearest[0])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_hostile_users_and_items_are_text_wherever_they_stand(running: ConsoleScene, page: Page) -> None:
    page.open(f"{running.url}/#user={quote(HOSTILE, safe='')}")
    wait_shown(page, lambda: page.text("#user strong.id") == HOSTILE)
    assert page.js("document.title") == "lurm console"
    assert page.js("document.images.length") == 0
    assert page.js("document.scripts.length") == 1, "the page's own"


def test_numbers_change_by_themselves_as_events_come(running: ConsoleScene, page: Page) -> None:
    page.open(running.url)
    wait_shown(page, lambda: n_applied(page) >= len(EVENTS))
    page.js("window.neverReloaded = true")
    before = n_applied(page)
    with running.traffic.flowing(100):
        wait_shown(page, lambda: n_applied(page) > before + 200)
        wait_shown(page, lambda: int(page.rows("#workers")[0]["dirty users"]) > 0)
        wait_shown(page, lambda: re.fullmatch(r"[\d.]+ s", page.rows("#workers")[0]["oldest dirty"]))
        for column in ("freshness p50", "p99"):
            wait_shown(page, lambda column=column: re.fullmatch(r"[\d.]+ s", page.rows("#workers")[0][column]))
    wait_shown(page, lambda: n_applied(page) == len(running.traffic.sent))
    wait_shown(page, lambda: page.rows("#workers")[0]["dirty users"] == "0")
    assert page.js("document.querySelectorAll('#recent a').length") == 8
    assert page.js("window.neverReloaded")


def test_the_form_asks_for_a_user_and_again_for_news(running: ConsoleScene, page: Page) -> None:
    page.open(running.url)
    page.press("/", *"bob", "Enter")
    wait_shown(page, lambda: page.text("#user strong.id") == "bob" and len(page.rows(LAST)) == 1)
    running.traffic.send_these([event(b"bob", 5, 2)])
    wait_until(lambda: len(running.api("user/bob")["embeddings"]) == 2)
    page.js("document.querySelector('#ask button').click()")
    wait_shown(page, lambda: len(page.rows(LAST)) == 2)
    newer, older = (int(each["seq"]) for each in page.rows(LAST))
    assert newer > older
    assert page.rows('[aria-label="Interests by day, counts"]')[1]["2024-10-06"] == "1"
    page.js("document.querySelector('#id').value = 'nobody'; document.querySelector('#ask button').click()")
    wait_shown(page, lambda: page.text("#user-error") == "nothing is known of the user: user=nobody")
    assert page.js("document.querySelector('#user').hidden")


def test_with_a_token_the_browser_asks_for_it_and_then_shows_everything(
    running: ConsoleScene, page: Page, tmp_path: Path
) -> None:
    settings = running.traffic.settings.model_copy(update={"console": Console(token=TOKEN)})
    with consoling(settings, running.workers, tmp_path) as url:
        for stranger in (url, url.replace("//", "//ann:wrong@")):
            page.open(stranger)
            assert "Partitions" not in page.text("body")
        page.open(url.replace("//", f"//ann:{TOKEN}@") + "/#user=ann")
        wait_shown(page, lambda: len(page.rows("#partitions")) == 2 and page.rows(NEAREST))
        assert TOKEN not in (tmp_path / "console.log").read_text()


def test_the_page_says_what_is_away(running: ConsoleScene, page: Page) -> None:
    """Last, for it kills the worker, then the broker."""
    page.open(running.url)
    running.workers[0].kill()
    wait_shown(page, lambda: "Partition 0: no worker asked here owns it." in page.text("#status"))
    assert "no answer: [Errno 111] Connection refused" in page.text("#status")
    assert page.rows("#workers")[0]["state"] == "no answer"
    assert page.rows("#partitions")[0]["owner"] == "nobody"
    assert page.rows("#partitions")[0]["ledger"] == "balances", "the changelog's"
    running.broker.kill()
    wait_shown(page, lambda: "The broker" in page.text("#status"))
    assert running.api("user/ann")["scales"], "what was read before is still there"
