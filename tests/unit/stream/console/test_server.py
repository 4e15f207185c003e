"""The console's HTTP: two JSON endpoints and one page, GET only, nothing for pages of other origins."""

import base64
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from stream.console.server import Api, ConsoleServer
from stream.errors import BrokerUnavailable, ConfigInvalid

HOSTILE = "<script>alert('1')</script>/../ü\u202e&amp;\""


def user(name: str) -> Mapping[str, Any] | None:
    if name == "broken":
        raise BrokerUnavailable("no broker answered")
    return None if name == "nobody" else {"user_id": name}


@pytest.fixture
def server() -> Iterator[ConsoleServer]:
    made = ConsoleServer(("127.0.0.1", 0), Api(lambda: {"p99": float("nan")}, user))
    yield made
    made.close()


def ask(
    server: ConsoleServer, path: str, method: str = "GET", host: str = "", login: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        headers = {"Host": host or f"127.0.0.1:{server.port}"} | ({"Authorization": login} if login else {})
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_page_and_what_it_loads_are_in_the_package(server: ConsoleServer) -> None:
    _, _, page = ask(server, "/")
    for path in (b"/console.css", b"/console.js", b"/icon.svg"):
        assert b'"' + path + b'"' in page
        assert ask(server, path.decode())[0] == 200
    assert b"http://" not in page
    assert b"https://" not in page


def test_a_hostile_id_comes_back_as_data_and_never_as_a_page(server: ConsoleServer) -> None:
    status, headers, body = ask(server, f"/api/user/{quote(HOSTILE, safe='')}")
    assert (status, json.loads(body)) == (200, {"user_id": HOSTILE})
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("user_id", [".", "..", "a/../b", "a+b c&d=e", "%2e%2e", "ü?#", HOSTILE])
def test_any_id_can_be_asked_for_by_the_query(server: ConsoleServer, user_id: str) -> None:
    status, _, body = ask(server, f"/api/user?id={quote(user_id, safe='')}")
    assert (status, json.loads(body)) == (200, {"user_id": user_id})


def test_errors_have_a_status_and_a_sentence(server: ConsoleServer) -> None:
    for path, status, part in [
        ("/api/user/nobody", 404, "nothing is known of the user: user=nobody"),
        ("/api/user/broken", 503, "no broker answered"),
        ("/api/user/", 404, "no such page"),
        ("/api/user", 404, "no such page"),
        ("/api/user?id=", 404, "no such page"),
        ("/api/user?id=%ff", 404, "no such page"),
        ("/api/user?id=nobody", 404, "nothing is known of the user: user=nobody"),
        ("/../../etc/passwd", 404, "no such page"),
        ("/api/user/%ff", 400, "not UTF-8"),
    ]:
        found, _, body = ask(server, path)
        assert (found, part in json.loads(body)["error"]) == (status, True), body
    assert json.loads(ask(server, "/api/overview")[2]) == {"p99": None}


def test_every_answer_forbids_scripts_frames_and_readers_of_other_origins(server: ConsoleServer) -> None:
    for path in ("/", "/console.js", "/api/overview", "/api/user/ann", "/nowhere"):
        _, headers, _ = ask(server, path)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_only_get_is_answered(server: ConsoleServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        status, headers, _ = ask(server, "/api/overview", method)
        assert (status, headers["Allow"]) == (405, "GET")


def test_a_foreign_name_that_leads_here_is_refused(server: ConsoleServer) -> None:
    for host, status in [("evil.example", 403), ("evil.example:80", 403), ("[", 403),
                         ("localhost:1", 200), ("[::1]:1", 200), ("10.0.0.1", 200)]:  # fmt: skip
        assert ask(server, "/api/overview", host=host)[0] == status, host


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_with_a_token_page_and_json_are_for_who_logs_in_with_it() -> None:
    server = ConsoleServer(("127.0.0.1", 0), Api(dict, user), "sésame:0")
    wrong = (None, basic("ann", ""), basic("sésame:0", ""), basic("ann", "sésame:1"), basic("ann", "sésame:0 "),
             "Bearer sésame:0", "Basic ???", "Basic \xff", "Basic", "nonsense")  # fmt: skip
    try:
        for path in ("/", "/console.js", "/api/overview", "/api/user/ann", "/nowhere"):
            for login in wrong:
                status, headers, body = ask(server, path, login=login)
                assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="lurm console", charset="UTF-8"')
                assert b"s\xc3\xa9same" not in body
            for name in ("ann", ""):
                assert ask(server, path, login=basic(name, "sésame:0"))[0] in (200, 404)
        assert ask(server, "/", login=basic("ann", "sésame:0").replace("Basic", "basic"))[0] == 200
        assert ask(server, "/", host="evil.example", login=basic("ann", "sésame:0"))[0] == 403
    finally:
        server.close()


def test_a_port_that_is_taken_is_named(server: ConsoleServer) -> None:
    with pytest.raises(ConfigInvalid, match=f"127.0.0.1:{server.port}; choose another --port"):
        ConsoleServer(("127.0.0.1", server.port), Api(dict, user))
